#include "server/cli/shutdown.h"

#include <spdlog/spdlog.h>

#include <csignal>
#include <cstdlib>
#include <utility>

namespace thermocline {
namespace {

using boost::system::error_code;

// After a cancellation: for the last answers, and for everything.
constexpr std::chrono::milliseconds kFlushTimeout{1000};
constexpr std::chrono::milliseconds kLastTimeout{2000};

const char* NameOf(int signal) {
  return signal == SIGINT ? "SIGINT" : signal == SIGHUP ? "SIGHUP" : "SIGTERM";
}

// As it would have without a handler; process 1 of a container has no such default.
[[noreturn]] void EndBySignal(int signal) {
  (void)std::signal(signal, SIG_DFL);
  (void)std::raise(signal);
  std::_Exit(128 + signal);
}

}  // namespace

ShutdownSequence::ShutdownSequence(std::chrono::milliseconds timeout)
    : timeout_(timeout),
      signals_(io_context_, SIGINT, SIGTERM),
      deadline_(io_context_),
      last_deadline_(io_context_) {
  struct sigaction hangup {};
  if (sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler != SIG_IGN) {
    signals_.add(SIGHUP);
  }
  WaitForSignal();
  thread_ = std::jthread([this] { io_context_.run(); });
}

ShutdownSequence::~ShutdownSequence() { io_context_.stop(); }

void ShutdownSequence::Serve(HttpServer& server, Engine& engine, OpenAiApi& api) {
  const std::lock_guard lock(mutex_);
  served_.emplace(Served{.server = server, .engine = engine, .api = api});
}

void ShutdownSequence::Wait() {
  stopped_.get_future().wait();
  const std::lock_guard lock(mutex_);
  served_.reset();
}

void ShutdownSequence::WaitForSignal() {
  signals_.async_wait([this](const error_code& error, int signal) {
    if (!error) {
      OnSignal(signal);
      WaitForSignal();
    }
  });
}

void ShutdownSequence::OnSignal(int signal) {
  if (!stopping_) {
    Begin(signal);
  } else if (signal != SIGHUP) {  // which comes along with others, and twice, when a terminal goes
    spdlog::warn("second signal: aborting");
    std::_Exit(1);
  }
}

void ShutdownSequence::Begin(int signal) {
  const std::lock_guard lock(mutex_);
  if (!served_) {
    spdlog::info("{}: nothing is served yet", NameOf(signal));
    EndBySignal(signal);
  }
  stopping_ = true;
  spdlog::info("{}: finishing what runs, for at most {:.1f} s; a second signal aborts",
               NameOf(signal), static_cast<double>(timeout_.count()) / 1000);
  deadline_.expires_after(timeout_);
  deadline_.async_wait([this](const error_code& error) {
    if (!error) {
      OnDeadline();
    }
  });
  last_deadline_.expires_after(timeout_ + kLastTimeout);
  last_deadline_.async_wait([](const error_code& error) {
    if (!error) {
      spdlog::warn("what still runs does not end: aborting");
      std::_Exit(1);
    }
  });
  served_->api.StopAccepting();
  served_->engine.StopAccepting();
  served_->server.Drain([this] { Finish(); });
}

void ShutdownSequence::OnDeadline() {
  const std::lock_guard lock(mutex_);
  if (!served_ || finished_) {
    return;
  }
  spdlog::warn("the shutdown timeout is over: cancelling what still runs");
  served_->api.CancelAll();
  deadline_.expires_after(kFlushTimeout);
  deadline_.async_wait([this](const error_code& error) {
    if (!error) {
      Finish();
    }
  });
}

void ShutdownSequence::Finish() {
  if (!finished_.exchange(true)) {
    stopped_.set_value();
  }
}

}  // namespace thermocline
