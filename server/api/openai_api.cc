#include "server/api/openai_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/kv_snapshot.h"
#include "engine/text/chat_template.h"
#include "server/api/generation.h"
#include "server/api/kv_json.h"
#include "server/api/metrics.h"
#include "server/api/session_endpoints.h"
#include "server/api/text_endpoints.h"
#include "server/http/json.h"
#include "server/http/web_origin.h"

namespace thermocline {
namespace {

constexpr std::string_view kModelsPath = "/v1/models/";

// RFC 9110, 8.3.1: names of media types are in any case.
bool IsJson(const HttpRequest& request) {
  const std::string_view whole = request.Header("content-type");
  std::string type = AsciiLower(whole.substr(0, whole.find(';')));
  while (type.ends_with(' ') || type.ends_with('\t')) {
    type.pop_back();
  }
  return type.empty() || type == "application/json" || type.ends_with("+json");
}

ApiError UnsupportedMediaType() {
  ApiError error = InvalidField("", "Content-Type must be application/json");
  error.http_status = 415;
  return error;
}

Json ModelJson(const ApiContext& context, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", context.created},
          {"owned_by", "thermocline"},
          {"root", context.model_names.front()},
          {"parent", nullptr},
          {"max_model_len", context.service.max_model_len()}};
}

}  // namespace

OpenAiApi::OpenAiApi(const ApiContext& context, std::string version, int num_threads)
    : context_(context), version_(std::move(version)), pool_(num_threads) {}

void OpenAiApi::AddRoutes(Router& router) {
  const auto add_get = [&router](const char* path, auto respond) {
    router.Add("GET", path, [respond](const RequestPtr& request, const WriterPtr& writer) {
      writer->Respond(respond(*request));
    });
  };
  add_get("/health", [this](const HttpRequest&) { return Health(); });
  add_get("/live", [](const HttpRequest&) { return JsonResponse(R"({"status":"live"})"); });
  add_get("/load", [this](const HttpRequest&) { return Load(); });
  add_get("/metrics", [this](const HttpRequest&) { return MetricsResponse(context_); });
  router.Add("GET", "/v1/kv",
             [this](const RequestPtr& /*request*/, const WriterPtr& writer) { AnswerKv(writer); });
  add_get("/version", [this](const HttpRequest&) {
    return JsonResponse(DumpJson(Json{{"version", version_}}));
  });
  add_get("/v1/models", [this](const HttpRequest&) { return Models(); });
  add_get("/v1/models/*", [this](const HttpRequest& request) {
    return Model(request.path.substr(kModelsPath.size()));
  });

  const auto add_generation = [this, &router](const char* path, Parser parse) {
    router.Add("POST", path, [this, parse](const RequestPtr& request, const WriterPtr& writer) {
      Generate(parse, request, writer);
    });
  };
  add_generation("/v1/chat/completions", &ParseChatRequest);
  add_generation("/v1/completions", &ParseCompletionRequest);

  const auto add_text = [this, &router](const char* path, TextHandler handle) {
    router.Add("POST", path, [this, handle](const RequestPtr& request, const WriterPtr& writer) {
      AnswerText(handle, request, writer);
    });
  };
  add_text("/tokenize", &Tokenize);
  add_text("/detokenize", &Detokenize);
  AddSessionEndpoints(context_, router);
}

void OpenAiApi::Generate(Parser parse, const RequestPtr& request, const WriterPtr& writer) {
  if (!accepting_) {
    writer->Respond(ErrorResponse(FromStatus(Unavailable("the server is shutting down"))));
    return;
  }
  if (!IsJson(*request)) {
    writer->Respond(ErrorResponse(UnsupportedMediaType()));
    return;
  }
  Work(request, writer, [this, parse, request, writer] {
    ApiRequest parsed;
    if (const std::optional<ApiError> error = parse(context_, request->body, parsed)) {
      writer->Respond(ErrorResponse(*error));
      return;
    }
    if (const int most = context_.service.max_requests();
        parsed.prompts.size() > static_cast<size_t>(most)) {
      writer->Respond(ErrorResponse(InvalidField(
          "prompt", fmt::format("has {} prompts, but this server holds {} requests at most",
                                parsed.prompts.size(), most))));
      return;
    }
    Remember(Generation::Start(context_, std::move(parsed), writer));
  });
}

void OpenAiApi::Remember(const std::shared_ptr<Generation>& generation) {
  const std::lock_guard lock(mutex_);
  std::erase_if(generations_, [](const auto& weak) { return weak.expired(); });
  generations_.push_back(generation);
}

void OpenAiApi::CancelAll() {
  context_.service.chat_template().Stop();
  const std::lock_guard lock(mutex_);
  for (const std::weak_ptr<Generation>& weak : generations_) {
    if (const std::shared_ptr<Generation> generation = weak.lock()) {
      generation->Abort(Unavailable("the server is shutting down"));
    }
  }
}

void OpenAiApi::AnswerText(TextHandler handle, const RequestPtr& request, const WriterPtr& writer) {
  if (!IsJson(*request)) {
    writer->Respond(ErrorResponse(UnsupportedMediaType()));
    return;
  }
  Work(request, writer,
       [this, handle, request, writer] { writer->Respond(handle(context_, request->body)); });
}

void OpenAiApi::Work(const RequestPtr& request, const WriterPtr& writer,
                     std::function<void()> work) {
  pool_.Post(
      request->body.size(),
      [writer, work = std::move(work)] {
        if (writer->connected()) {
          work();
        }
      },
      [writer] {
        writer->Respond(ErrorResponse(
            FromStatus(ResourceExhausted("the server has no memory for this request"))));
      });
}

HttpResponse OpenAiApi::Models() const {
  Json models = Json::array();
  for (const std::string& name : context_.model_names) {
    models.push_back(ModelJson(context_, name));
  }
  Json list = Json::object();
  list["object"] = "list";
  list["data"] = std::move(models);
  return JsonResponse(DumpJson(list));
}

HttpResponse OpenAiApi::Model(const std::string& id) const {
  const auto& names = context_.model_names;
  if (std::find(names.begin(), names.end(), id) == names.end()) {
    ApiError error = InvalidField("model", fmt::format("the model `{}` does not exist", id));
    error.http_status = 404;
    error.code = "model_not_found";
    return ErrorResponse(error);
  }
  return JsonResponse(DumpJson(ModelJson(context_, id)));
}

HttpResponse OpenAiApi::Health() const {
  if (!accepting_) {
    return ErrorResponse(FromStatus(Unavailable("the server is shutting down")));
  }
  if (!context_.service.healthy()) {
    ApiError error = FromStatus(Unavailable("the engine has failed"));
    error.retry_after_seconds = 0;  // only a new process helps
    return ErrorResponse(error);
  }
  return JsonResponse(R"({"status":"ok"})");
}

void OpenAiApi::AnswerKv(const WriterPtr& writer) {
  context_.service.QueryKv([this, writer](std::shared_ptr<const KvSnapshot> snapshot) {
    writer->Post([this, writer, snapshot = std::move(snapshot)] {
      writer->Respond(JsonResponse(DumpJson(KvJson(context_, *snapshot))));
    });
  });
}

HttpResponse OpenAiApi::Load() const {
  const EngineStats stats = context_.service.stats();
  Json load = Json::object();
  load["server_load"] = stats.scheduler.num_running + stats.scheduler.num_waiting;
  load["num_running"] = stats.scheduler.num_running;
  load["num_waiting"] = stats.scheduler.num_waiting;
  load["num_pages"] = stats.arena.num_pages;
  load["num_free_pages"] = stats.arena.num_free_pages;
  load["num_cached_pages"] = stats.arena.num_cached_pages;
  load["num_preemptions"] = stats.scheduler.num_preemptions;
  load["num_steps"] = stats.steps.num_steps;
  load["prompt_tokens"] = stats.steps.prompt_tokens;
  load["generated_tokens"] = stats.steps.generated_tokens;
  load["prefix_query_tokens"] = stats.scheduler.prefix_query_tokens;
  load["prefix_hit_tokens"] = stats.scheduler.prefix_hit_tokens;
  return JsonResponse(DumpJson(load));
}

}  // namespace thermocline
