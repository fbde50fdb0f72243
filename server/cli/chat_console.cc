#include "server/cli/chat_console.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

int OpenInterrupts() {
  const sigset_t set = InterruptSet();
  CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  const int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  CHECK(fd >= 0);
  return fd;
}

}  // namespace

FileDescriptor::~FileDescriptor() { close(fd_); }

ChatConsole::ChatConsole() : interrupts_(OpenInterrupts()), terminal_(isatty(STDIN_FILENO) == 1) {}

ChatConsole::~ChatConsole() {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

bool ChatConsole::TakeInterrupt() {
  signalfd_siginfo info{};
  return read(interrupts_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info));
}

bool ChatConsole::WaitFor(int fd) {
  std::array<pollfd, 2> fds = {pollfd{fd, POLLIN, 0}, pollfd{interrupts_.get(), POLLIN, 0}};
  while (poll(fds.data(), fds.size(), -1) < 0) {
    CHECK(errno == EINTR);
  }
  return fds[1].revents == 0;
}

std::optional<std::string> ChatConsole::ReadLine(const std::string& prompt) {
  if (terminal_) {
    fmt::print("{}", prompt);
    std::fflush(stdout);
  }
  while (true) {
    if (const size_t end = input_.find('\n'); end != std::string::npos) {
      std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      return line;
    }
    if (input_ended_) {
      return input_.empty() ? std::nullopt : std::optional(std::exchange(input_, {}));
    }
    if (!WaitFor(STDIN_FILENO)) {
      TakeInterrupt();
      return std::nullopt;
    }
    std::array<char, 4096> chunk;
    const ssize_t size = read(STDIN_FILENO, chunk.data(), chunk.size());
    if (size > 0) {
      input_.append(chunk.data(), static_cast<size_t>(size));
    } else if (size == 0 || errno != EINTR) {
      input_ended_ = true;
    }
  }
}

AnswerQueue::AnswerQueue() : event_(eventfd(0, EFD_CLOEXEC)) { CHECK(event_.get() >= 0); }

void AnswerQueue::Signal() {
  const uint64_t one = 1;
  CHECK(write(event_.get(), &one, sizeof(one)) == static_cast<ssize_t>(sizeof(one)));
}

void AnswerQueue::Add(const OutputDelta& delta) {
  const std::lock_guard lock(mutex_);
  batch_.text += delta.text;
  batch_.num_tokens += static_cast<int>(delta.token_ids.size());
  Signal();
}

void AnswerQueue::Finish(const Status& status) {
  const std::lock_guard lock(mutex_);
  batch_.done = true;
  batch_.status = status;
  Signal();
}

AnswerQueue::Batch AnswerQueue::Take() {
  uint64_t count = 0;
  CHECK(read(event_.get(), &count, sizeof(count)) == static_cast<ssize_t>(sizeof(count)));
  const std::lock_guard lock(mutex_);
  return std::exchange(batch_, {});
}

}  // namespace thermocline
