#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/base/status.h"

namespace thermocline {

// A running worker process, owned: killed and reaped when this goes. It is a program of its own,
// not a fork of this process, with a stream socket (its descriptor 3) to its parent, nothing on
// its standard streams, no other descriptor, and a process group of its own, so that an interrupt
// typed at a terminal is not for it. The kernel kills it when the thread that made it ends.
class WorkerProcess {
 public:
  // `arguments` follow the parent's process id, which is the program's first.
  static Result<WorkerProcess> Spawn(const std::string& program,
                                     const std::vector<std::string>& arguments);
  ~WorkerProcess();
  WorkerProcess(WorkerProcess&& other) noexcept;
  WorkerProcess& operator=(WorkerProcess&& other) noexcept;

  int fd() const { return fd_; }
  pid_t pid() const { return pid_; }
  bool has_ended() const;  // it has closed its end of the socket
  std::chrono::nanoseconds cpu_time() const;
  size_t resident_bytes() const;

 private:
  WorkerProcess(pid_t pid, int fd) : pid_(pid), fd_(fd) {}
  void Reap();

  pid_t pid_ = -1;  // -1: moved from
  int fd_ = -1;
};

// The path of a program in the folder of the running one.
std::string ProgramBesideThis(const std::string& name);

}  // namespace thermocline
