#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/engine.h"
#include "server/api/openai_api.h"
#include "server/http/http_server.h"

namespace thermocline {

// From the first SIGINT, SIGTERM or SIGHUP to the end of the process, on a thread of its own, so
// that nothing which runs can hold it up. Made before the model is loaded and destroyed last:
//   - while nothing is served, a signal ends the process at once;
//   - then the first one lets what runs finish for `timeout`, and cancels it after that;
//   - two seconds later the process ends, whatever still goes on;
//   - a second SIGINT or SIGTERM ends it at once.
// A SIGHUP that was ignored at the start (nohup) stays so.
class ShutdownSequence {
 public:
  explicit ShutdownSequence(std::chrono::milliseconds timeout);
  ~ShutdownSequence();
  ShutdownSequence(const ShutdownSequence&) = delete;
  ShutdownSequence& operator=(const ShutdownSequence&) = delete;

  // The three are used until Wait returns.
  void Serve(HttpServer& server, Engine& engine, OpenAiApi& api);
  // Until the server may stop.
  void Wait();

 private:
  struct Served {
    HttpServer& server;
    Engine& engine;
    OpenAiApi& api;
  };

  void WaitForSignal();
  void OnSignal(int signal);
  void Begin(int signal);
  void OnDeadline();
  void Finish();

  const std::chrono::milliseconds timeout_;
  boost::asio::io_context io_context_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer deadline_;
  boost::asio::steady_timer last_deadline_;
  bool stopping_ = false;
  std::atomic<bool> finished_{false};
  std::promise<void> stopped_;
  std::mutex mutex_;
  std::optional<Served> served_;  // guarded by mutex_
  std::jthread thread_;           // last: it uses all of the above
};

}  // namespace thermocline
