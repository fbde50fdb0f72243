#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api/api_request.h"
#include "server/api/generation.h"
#include "server/api/work_pool.h"
#include "server/http/http_types.h"
#include "server/http/router.h"

namespace thermocline {

// The endpoints. Parsing, templates and tokenisation run on a pool of its own, so that a large
// prompt delays neither the connections nor the engine nor small prompts.
//   POST /v1/chat/completions, /v1/completions      OpenAI's, with vLLM's extra fields
//   GET  /v1/models, /v1/models/{id}
//   POST /tokenize, /detokenize                     vLLM's
//   GET  /health   200 when a request would be taken, 503 when stopping or the engine has failed
//   GET  /live     200 while the process answers
//   GET  /load     {server_load, num_running, num_waiting, num_pages, num_free_pages, ...}
//   GET  /v1/kv    the KV cache's tiers, moves and energies, and each running sequence's pages
//   /v1/kv/sessions...  saved conversations: session_endpoints.h
//   GET  /metrics  for Prometheus
//   GET  /version
class OpenAiApi {
 public:
  // `context` outlives it. Stop the HTTP server before it is destroyed.
  OpenAiApi(const ApiContext& context, std::string version, int num_threads);
  OpenAiApi(const OpenAiApi&) = delete;
  OpenAiApi& operator=(const OpenAiApi&) = delete;

  void AddRoutes(Router& router);
  // New generation requests are refused and /health is 503 from now on. Thread-safe.
  void StopAccepting() { accepting_ = false; }
  // Every running generation ends with 503, in its stream if that has begun. Thread-safe.
  void CancelAll();

 private:
  using Parser = std::optional<ApiError> (*)(const ApiContext&, std::string_view, ApiRequest&);
  using TextHandler = HttpResponse (*)(const ApiContext&, std::string_view);

  void Generate(Parser parse, const RequestPtr& request, const WriterPtr& writer);
  void AnswerText(TextHandler handle, const RequestPtr& request, const WriterPtr& writer);
  // Runs `work` on the pool unless the client has gone by then.
  void Work(const RequestPtr& request, const WriterPtr& writer, std::function<void()> work);
  void Remember(const std::shared_ptr<Generation>& generation);
  void AnswerKv(const WriterPtr& writer);
  HttpResponse Models() const;
  HttpResponse Model(const std::string& id) const;
  HttpResponse Health() const;
  HttpResponse Load() const;

  const ApiContext& context_;
  const std::string version_;
  std::atomic<bool> accepting_{true};
  std::mutex mutex_;
  std::vector<std::weak_ptr<Generation>> generations_;  // guarded by mutex_; the ended ones expire
  WorkPool pool_;
};

}  // namespace thermocline
