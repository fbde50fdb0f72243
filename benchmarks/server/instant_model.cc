// Serves a model's tokenizer and chat template with a model that takes no time: the next token is
// always the same one. What is left is the cost of a request in everything but the model.
//   instant_model MODEL PORT [THREADS]

#include <chrono>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "kernels/base/check.h"
#include "server/api/id_source.h"
#include "server/api/openai_api.h"
#include "server/cli/shutdown.h"
#include "server/http/http_server.h"
#include "server/http/router.h"

namespace thermocline {
namespace {

class InstantRunner : public Runner {
 public:
  explicit InstantRunner(TokenId token) : token_(token) {}

  Result<RunResult> Run(const StepPlan& plan) override {
    const size_t count = plan.sequences.size();
    RunResult result(count);
    for (size_t i = 0; i < count; ++i) {
      if (plan.sequences[i].samples()) {
        result.step.accepted[i].push_back(token_);
      }
    }
    return result;
  }
  void StartMoves(std::span<const PageMove> moves) override { CHECK(moves.empty()); }
  std::vector<FinishedMove> FinishedMoves(bool /*wait*/) override { return {}; }
  double move_seconds() const override { return 0; }

 private:
  TokenId token_;
};

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int Run(const std::string& model_path, int port, int num_threads) {
  ShutdownSequence shutdown(std::chrono::seconds(1));
  EngineConfig config{.model_path = model_path,
                      .max_num_batched_tokens = 8192,
                      .kv_policy = KvPolicy::kHot,
                      .num_threads = 1};
  EngineParts parts = std::move(LoadEngineParts(config)).value();
  parts.runner = std::make_unique<InstantRunner>(
      parts.tokenizer->Encode(" word", SpecialTokens::kPlain, {}).front());
  const std::unique_ptr<Engine> engine = Engine::FromParts(std::move(parts));
  const std::unique_ptr<HttpServer> server =
      std::move(
          HttpServer::Create({.port = static_cast<uint16_t>(port), .num_threads = num_threads}))
          .value();
  IdSource ids(1);
  const ApiContext context{.service = *engine,
                           .model_names = {"instant"},
                           .unix_seconds = &UnixSeconds,
                           .new_id = [&ids] { return ids.Next(); },
                           .created = UnixSeconds()};
  OpenAiApi api(context, "benchmark", num_threads);
  Router router(context.new_id);
  api.AddRoutes(router);
  shutdown.Serve(*server, *engine, api);
  CHECK(server
            ->Start([&router](const RequestPtr& request, const WriterPtr& writer) {
              router.Handle(request, writer);
            })
            .ok());
  std::printf("Serving on http://127.0.0.1:%d\n", server->port());
  (void)std::fflush(stdout);
  shutdown.Wait();
  engine->chat_template().Stop();
  server->Stop();
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  if (argc < 3) {
    (void)std::fprintf(stderr, "instant_model MODEL PORT [THREADS]\n");
    return 1;
  }
  return thermocline::Run(argv[1], std::stoi(argv[2]), argc > 3 ? std::stoi(argv[3]) : 2);
}
