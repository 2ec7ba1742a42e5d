#include "cli/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

extern char** environ;

namespace tiercel::cli {
namespace {

// As execv() takes them; valid as long as both are left alone.
std::vector<char*> words_of(const std::string& path, std::vector<std::string>& arguments) {
  std::vector<char*> words = {const_cast<char*>(path.data())};
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  return words;
}

}  // namespace

Result<ProgramOutput> run_program(const std::string& path, std::vector<std::string> arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Status::unavailable(fmt::format("no pipe: {}", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<char*> words = words_of(path, arguments);
  const auto start = std::chrono::steady_clock::now();
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, path.c_str(), &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  ProgramOutput output;
  char buffer[4096];
  for (ssize_t count = 0; error == 0 && (count = ::read(ends[0], buffer, sizeof buffer)) != 0;) {
    if (count < 0 && errno != EINTR) break;
    if (count < 0) continue;
    if (output.text.empty()) {
      output.first_byte_ms =
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    }
    output.text.append(buffer, static_cast<std::size_t>(count));
  }
  ::close(ends[0]);
  if (error != 0) return Status::unavailable(fmt::format("cannot start {}: {}", path, std::strerror(error)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return Status::unavailable(fmt::format("{} failed", path));
  return output;
}

Status start_program(const std::string& path, std::vector<std::string> arguments) {
  std::vector<char*> words = words_of(path, arguments);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, path.c_str(), nullptr, nullptr, words.data(), environ);
  return error == 0 ? Status() : Status::unavailable(fmt::format("cannot start {}: {}", path, std::strerror(error)));
}

ScratchDirectory::ScratchDirectory() {
  path_ = (std::filesystem::temp_directory_path() / "tiercel-XXXXXX").string();
  if (::mkdtemp(path_.data()) == nullptr) {
    throw std::filesystem::filesystem_error("no directory for scratch files", path_,
                                            std::error_code(errno, std::generic_category()));
  }
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace tiercel::cli
