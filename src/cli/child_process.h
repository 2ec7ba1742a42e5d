// Another process, and a directory for what it shares with this one.
#pragma once

#include <string>
#include <vector>

#include "tiercel/status.h"

namespace tiercel::cli {

struct ProgramOutput {
  std::string text;          // what it wrote to standard output
  double first_byte_ms = 0;  // from the start of the process to its first byte of output; 0: there was none
};

// Runs the program `path` to its end, sought in $PATH if it has no slash. Unavailable where it could not be started or
// did not exit with 0. Its standard error is this process's.
Result<ProgramOutput> run_program(const std::string& path, std::vector<std::string> arguments);

// Starts it, and does not wait for its end.
Status start_program(const std::string& path, std::vector<std::string> arguments);

// A new directory, removed with everything in it when this goes. Throws std::filesystem::filesystem_error where there
// can be none.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tiercel::cli
