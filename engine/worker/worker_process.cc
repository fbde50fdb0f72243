#include "engine/worker/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

namespace thermocline {
namespace {

constexpr int kWorkerFd = 3;

// Environment variables that a worker's libraries need. The user's keys and tokens are not passed.
constexpr std::array<std::string_view, 6> kVariables = {
    "TZ=", "LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "LSAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS="};

std::vector<char*> Environment() {
  std::vector<char*> kept;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    for (const std::string_view name : kVariables) {
      if (std::string_view(*variable).starts_with(name)) {
        kept.push_back(*variable);
      }
    }
  }
  kept.push_back(nullptr);
  return kept;
}

// How the new process starts: its descriptors, signals and group.
class SpawnPlan {
 public:
  explicit SpawnPlan(int socket) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_adddup2(&actions_, socket, kWorkerFd);
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      posix_spawn_file_actions_addopen(&actions_, standard, "/dev/null", O_RDWR, 0);
    }
    posix_spawn_file_actions_addclosefrom_np(&actions_, kWorkerFd + 1);
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  const posix_spawn_file_actions_t* actions() const { return &actions_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

}  // namespace

Result<WorkerProcess> WorkerProcess::Spawn(const std::string& program,
                                           const std::vector<std::string>& arguments) {
  std::array<int, 2> sockets{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) != 0) {
    return Unavailable("no socket for a worker process: {}", std::strerror(errno));
  }
  // The number is above kWorkerFd, to which the worker's end is copied: a copy onto itself would
  // stay close-on-exec.
  const int theirs = fcntl(sockets[1], F_DUPFD_CLOEXEC, kWorkerFd + 1);
  close(sockets[1]);
  std::vector<std::string> texts = {program, std::to_string(getpid())};
  texts.insert(texts.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& text : texts) {
    pointers.push_back(text.data());
  }
  pointers.push_back(nullptr);
  std::vector<char*> environment = Environment();
  pid_t pid = -1;
  const SpawnPlan plan(theirs);
  const int failed = theirs < 0
                         ? errno
                         : posix_spawn(&pid, program.c_str(), plan.actions(), plan.attributes(),
                                       pointers.data(), environment.data());
  if (theirs >= 0) {
    close(theirs);
  }
  if (failed != 0) {
    close(sockets[0]);
    const std::string name = std::filesystem::path(program).filename().string();
    if (failed == ENOENT || failed == EACCES) {
      return FailedPrecondition("the program {} cannot be run: it belongs beside this one", name);
    }
    return Unavailable("{} cannot be started: {}", name, std::strerror(failed));
  }
  return WorkerProcess(pid, sockets[0]);
}

WorkerProcess::~WorkerProcess() { Reap(); }

WorkerProcess::WorkerProcess(WorkerProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), fd_(std::exchange(other.fd_, -1)) {}

WorkerProcess& WorkerProcess::operator=(WorkerProcess&& other) noexcept {
  if (this != &other) {
    Reap();
    pid_ = std::exchange(other.pid_, -1);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void WorkerProcess::Reap() {
  if (pid_ < 0) {
    return;
  }
  kill(pid_, SIGKILL);
  close(fd_);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

bool WorkerProcess::has_ended() const {
  char byte = 0;
  const ssize_t got = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got >= 0 || (errno != EAGAIN && errno != EINTR);  // it says nothing unasked
}

std::chrono::nanoseconds WorkerProcess::cpu_time() const {
  clockid_t clock = 0;
  timespec time{};
  if (clock_getcpuclockid(pid_, &clock) != 0 || clock_gettime(clock, &time) != 0) {
    return {};
  }
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

size_t WorkerProcess::resident_bytes() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/statm");
  size_t num_virtual = 0;
  size_t num_resident = 0;
  file >> num_virtual >> num_resident;
  return num_resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

std::string ProgramBesideThis(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / name).string();
}

}  // namespace thermocline
