#include "server/serve_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <random>

#include "server/engine_service.h"
#include "server/http_server.h"
#include "server/id_source.h"
#include "server/load_report.h"
#include "server/openai_api.h"
#include "server/router.h"
#include "server/web_pages.h"

namespace thermocline {
namespace {

using boost::system::error_code;

constexpr std::chrono::seconds kFlushTimeout{2};  // for the last answers after a cancellation

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::vector<std::string> ModelNames(const ServeOptions& options) {
  if (!options.served_model_names.empty()) {
    return options.served_model_names;
  }
  return {std::filesystem::path(options.engine.model_path).stem().string()};
}

// From the first signal to the end of the last answer. Its handlers run on one strand.
class ShutdownSequence {
 public:
  ShutdownSequence(HttpServer& server, Engine& engine, OpenAiApi& api,
                   std::chrono::milliseconds timeout)
      : server_(server),
        engine_(engine),
        api_(api),
        timeout_(timeout),
        strand_(boost::asio::make_strand(server.io_context())),
        signals_(strand_, SIGINT, SIGTERM),
        timer_(strand_) {
    WaitForSignal();
  }

  // Until the server may stop. Not from an I/O thread.
  void Wait() { stopped_.get_future().wait(); }

 private:
  void WaitForSignal() {
    signals_.async_wait([this](const error_code& error, int signal) {
      if (!error) {
        OnSignal(signal);
        WaitForSignal();
      }
    });
  }

  void OnSignal(int signal) {
    if (std::exchange(stopping_, true)) {
      spdlog::warn("second signal: aborting");
      spdlog::shutdown();
      std::_Exit(1);
    }
    spdlog::info("{}: finishing what runs, for at most {:.1f} s; a second signal aborts",
                 signal == SIGINT ? "SIGINT" : "SIGTERM",
                 static_cast<double>(timeout_.count()) / 1000);
    api_.StopAccepting();
    engine_.StopAccepting();
    timer_.expires_after(timeout_);
    timer_.async_wait([this](const error_code& error) {
      if (!error) {
        OnDeadline();
      }
    });
    server_.Drain([this] { Finish(); });
  }

  void OnDeadline() {
    spdlog::warn("the shutdown timeout is over: cancelling what still runs");
    api_.CancelAll();
    timer_.expires_after(kFlushTimeout);
    timer_.async_wait([this](const error_code& error) {
      if (!error) {
        Finish();
      }
    });
  }

  void Finish() {
    if (!finished_.exchange(true)) {
      stopped_.set_value();
    }
  }

  HttpServer& server_;
  Engine& engine_;
  OpenAiApi& api_;
  const std::chrono::milliseconds timeout_;
  boost::asio::strand<boost::asio::io_context::executor_type> strand_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  bool stopping_ = false;
  std::atomic<bool> finished_{false};
  std::promise<void> stopped_;
};

int Fail(const Status& status) {
  spdlog::error("{}", status.message());
  return EXIT_FAILURE;
}

void PrintAddress(const std::string& host, uint16_t port) {
  const bool v6 = host.find(':') != std::string::npos;
  fmt::print("Serving on http://{}{}{}:{}\n", v6 ? "[" : "", host, v6 ? "]" : "", port);
  std::fflush(stdout);
}

}  // namespace

int RunServe(const ServeOptions& options, const std::string& version) {
  // Destroyed last: what the engine's sinks hold are its connections.
  Result<std::unique_ptr<HttpServer>> server = HttpServer::Create(options.http);
  if (!server.ok()) {
    return Fail(server.status());
  }
  const Result<std::unique_ptr<Engine>> engine = LoadEngine(options.engine);
  if (!engine.ok()) {
    return Fail(engine.status());
  }
  spdlog::info("loaded {}\n{}", options.engine.model_path, FormatBudget((*engine)->budget()));
  if (const std::string& warning = (*engine)->budget().calibration_warning; !warning.empty()) {
    spdlog::warn("the calibration is not kept: {}", warning);
  }

  EngineService service(**engine);
  std::random_device entropy;
  IdSource ids(uint64_t{entropy()} << 32 | entropy());
  const ApiContext context{.service = service,
                           .model_names = ModelNames(options),
                           .unix_seconds = &UnixSeconds,
                           .new_id = [&ids] { return ids.Next(); },
                           .created = UnixSeconds(),
                           .kv_fidelity = options.engine.kv_fidelity,
                           .kv_policy = options.engine.kv_policy,
                           .kv_budget = options.engine.kv_budget};
  OpenAiApi api(context, version, options.http.num_threads);
  Router router({.allowed_origins = options.allowed_origins, .new_request_id = context.new_id});
  api.AddRoutes(router);
  AddWebPages(WebAssets(), router);

  ShutdownSequence shutdown(**server, **engine, api, options.shutdown_timeout);
  const Status started =
      (*server)->Start([&router](const RequestPtr& request, const WriterPtr& writer) {
        router.Handle(request, writer);
      });
  if (!started.ok()) {
    return Fail(started);
  }
  PrintAddress(options.http.host, (*server)->port());
  shutdown.Wait();
  (*server)->Stop();
  spdlog::info("stopped");
  return EXIT_SUCCESS;
}

}  // namespace thermocline
