// Another process, and a directory for what it shares with this one.
#pragma once

#include <string>
#include <vector>

#include "tiercel/status.h"

namespace tiercel::cli {

// Runs the program at `path` to its end; what it wrote to standard output. Unavailable where it could not be started or
// did not exit with 0. Its standard error is this process's.
Result<std::string> output_of_program(const std::string& path, const std::vector<std::string>& arguments);

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
