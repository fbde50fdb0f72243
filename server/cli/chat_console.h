#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/output_sink.h"

namespace thermocline {

// An open file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// Lines from standard input and Ctrl-C, waited for together: SIGINT is blocked in this thread, and
// in those that it starts, and read from a descriptor. Make it before the engine. One thread.
class ChatConsole {
 public:
  ChatConsole();
  ~ChatConsole();
  ChatConsole(const ChatConsole&) = delete;
  ChatConsole& operator=(const ChatConsole&) = delete;

  // The next line, without its end; nothing at Ctrl-C or the end of the input.
  std::optional<std::string> ReadLine(const std::string& prompt);
  // Until `fd` is readable; false: Ctrl-C came first.
  bool WaitFor(int fd);
  bool TakeInterrupt();  // whether Ctrl-C came since it was last asked for

 private:
  const FileDescriptor interrupts_;
  const bool terminal_;
  std::string input_;  // read, not yet taken
  bool input_ended_ = false;
};

// One answer's output, from the engine's thread to the console's. Shared with the engine's sink.
class AnswerQueue {
 public:
  struct Batch {
    std::string text;
    int num_tokens = 0;
    bool done = false;
    Status status;  // once done
  };

  AnswerQueue();
  void Add(const OutputDelta& delta);
  void Finish(const Status& status);
  int readable_fd() const { return event_.get(); }
  Batch Take();  // what came since it was last called

 private:
  void Signal();

  const FileDescriptor event_;
  std::mutex mutex_;
  Batch batch_;  // guarded by mutex_
};

}  // namespace thermocline
