#include "server/cli/serve_command.h"

#include <fmt/format.h>
#include <malloc.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <sstream>
#include <string>

#include "engine/engine.h"
#include "engine/engine_config.h"
#include "engine/memory_budget.h"
#include "engine/text/chat_template.h"
#include "server/api/id_source.h"
#include "server/api/kv_names.h"
#include "server/api/openai_api.h"
#include "server/cli/load_report.h"
#include "server/cli/shutdown.h"
#include "server/http/http_server.h"
#include "server/http/router.h"
#include "server/web/web_pages.h"

namespace thermocline {
namespace {

// A block of this size is the system's again as soon as it is free, and what lies free at the end
// of a heap is given back from the second size on.
constexpr int kMapFromBytes = 1 << 20;
constexpr int kTrimFromBytes = 8 << 20;

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

int Fail(const Status& status) {
  spdlog::error("{}", status.message());
  return EXIT_FAILURE;
}

// A stdout that is closed is no reason not to serve.
void PrintAddress(const std::string& host, uint16_t port) {
  const bool v6 = host.find(':') != std::string::npos;
  const std::string line =
      fmt::format("Serving on http://{}{}{}:{}\n", v6 ? "[" : "", host, v6 ? "]" : "", port);
  (void)std::fputs(line.c_str(), stdout);
  (void)std::fflush(stdout);
}

void LogBudget(const std::string& model_path, const MemoryBudget& budget) {
  spdlog::info("loaded {}", model_path);
  std::istringstream table(FormatBudget(budget));
  for (std::string line; std::getline(table, line);) {
    spdlog::info("{}", line);
  }
}

}  // namespace

int RunServe(const ServeOptions& options, const std::string& version) {
  (void)mallopt(M_MMAP_THRESHOLD, kMapFromBytes);
  (void)mallopt(M_TRIM_THRESHOLD, kTrimFromBytes);
  ShutdownSequence shutdown(options.shutdown_timeout);
  // Destroyed last: what the engine's sinks hold are its connections.
  Result<std::unique_ptr<HttpServer>> server = HttpServer::Create(options.http);
  if (!server.ok()) {
    return Fail(server.status());
  }
  EngineConfig config = options.engine;
  config.on_calibrated = [](const Status& status, const std::string& summary) {
    if (status.ok()) {
      spdlog::info("calibrated: {}", summary);
    } else {
      spdlog::warn("cold pages keep 4-bit keys, calibration failed: {}", status.message());
    }
  };
  const Result<std::unique_ptr<Engine>> engine = LoadEngine(config);
  if (!engine.ok()) {
    return Fail(engine.status());
  }
  LogBudget(options.engine.model_path, (*engine)->budget());
  if ((*engine)->stats().calibration.state == CalibrationState::kMeasuring) {
    spdlog::info("calibrating while idle; until then cold pages have 4-bit keys in all layers");
  }

  std::random_device entropy;
  IdSource ids(uint64_t{entropy()} << 32 | entropy());
  const ApiContext context{
      .service = **engine,
      .model_names = ModelNames(options),
      .unix_seconds = &UnixSeconds,
      .new_id = [&ids] { return ids.Next(); },
      .created = UnixSeconds(),
      .kv_fidelity = options.engine.kv_fidelity,
      .kv_policy = NameOf(kKvPolicyNames, {options.engine.kv_policy, options.engine.baseline}),
      .kv_budget = options.engine.kv_budget};
  OpenAiApi api(context, version, options.http.num_threads);
  Router router(context.new_id);
  api.AddRoutes(router);
  AddWebPages(WebAssets(), router);

  shutdown.Serve(**server, **engine, api);
  const Status started =
      (*server)->Start([&router](const RequestPtr& request, const WriterPtr& writer) {
        router.Handle(request, writer);
      });
  if (!started.ok()) {
    return Fail(started);
  }
  PrintAddress(options.http.host, (*server)->port());
  shutdown.Wait();
  (*engine)->chat_template().Stop();  // what is rendered for a client that has gone
  (*server)->Stop();
  spdlog::info("stopped");
  return EXIT_SUCCESS;
}

}  // namespace thermocline
