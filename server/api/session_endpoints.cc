#include "server/api/session_endpoints.h"

#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "server/api/request_fields.h"
#include "server/http/json.h"

namespace thermocline {
namespace {

constexpr std::string_view kPath = "/v1/kv/sessions/";
constexpr size_t kMaxBodyBytes = 4096;
// No tenants at the API yet.
constexpr char kTenant[] = "default";

Json SessionJson(const SessionInfo& session) {
  return {{"id", session.id},
          {"object", "kv.session"},
          {"tokens", session.num_tokens},
          {"saved_tokens", session.num_saved_tokens},
          {"bytes", session.bytes},
          {"saved_at", session.saved_at_unix}};
}

SessionCallback Answer(const WriterPtr& writer, std::string_view field) {
  return [writer, field](Result<SessionInfo> session) {
    if (!session.ok()) {
      writer->Respond(ErrorResponse(FromStatus(session.status())));
      return;
    }
    Json json = SessionJson(*session);
    if (field == "restored_tokens") {
      json[field] = session->num_restored_tokens;
    } else if (field == "deleted") {
      json[field] = true;
    }
    if (!session->warning.empty()) {
      json["warning"] = session->warning;
    }
    writer->Respond(JsonResponse(DumpJson(json)));
  };
}

// Whatever a client asks for beside the name in the path would be dropped.
std::optional<ApiError> RefuseFields(std::string_view body) {
  std::optional<ApiError> error;
  if (body.empty()) {
    return error;
  }
  if (body.size() > kMaxBodyBytes) {  // this is an I/O thread: nothing long is parsed on it
    return InvalidField("", "the body is too long: the session's name is in the path");
  }
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  for (const std::string_view name : fields.Unread()) {
    fields.Fail(name, "is not known here: the session's name is in the path");
  }
  return error;
}

void Post(const ApiContext& context, const HttpRequest& request, const WriterPtr& writer) {
  if (const std::optional<ApiError> error = RefuseFields(request.body)) {
    writer->Respond(ErrorResponse(*error));
    return;
  }
  std::string_view id = std::string_view(request.path).substr(kPath.size());
  const size_t slash = id.find('/');
  const std::string_view verb = slash == std::string_view::npos ? "" : id.substr(slash + 1);
  id = id.substr(0, slash);
  if (verb == "save") {
    context.service.SaveSession(kTenant, std::string(id), Answer(writer, ""));
  } else if (verb == "restore") {
    context.service.RestoreSession(kTenant, std::string(id), Answer(writer, "restored_tokens"));
  } else {
    ApiError error = InvalidField("", fmt::format("there is no {}", request.path));
    error.http_status = 404;
    error.code = "unknown_url";
    writer->Respond(ErrorResponse(error));
  }
}

void List(const ApiContext& context, const WriterPtr& writer) {
  context.service.ListSessions(kTenant, [writer](Result<std::vector<SessionInfo>> sessions) {
    if (!sessions.ok()) {
      writer->Respond(ErrorResponse(FromStatus(sessions.status())));
      return;
    }
    Json list = Json::object();
    list["object"] = "list";
    list["data"] = Json::array();
    for (const SessionInfo& session : *sessions) {
      list["data"].push_back(SessionJson(session));
    }
    writer->Respond(JsonResponse(DumpJson(list)));
  });
}

}  // namespace

void AddSessionEndpoints(const ApiContext& context, Router& router) {
  router.Add("GET", "/v1/kv/sessions",
             [&context](const RequestPtr& /*request*/, const WriterPtr& writer) {
               List(context, writer);
             });
  router.Add("POST", "/v1/kv/sessions/*",
             [&context](const RequestPtr& request, const WriterPtr& writer) {
               Post(context, *request, writer);
             });
  router.Add("DELETE", "/v1/kv/sessions/*",
             [&context](const RequestPtr& request, const WriterPtr& writer) {
               context.service.DeleteSession(kTenant, request->path.substr(kPath.size()),
                                             Answer(writer, "deleted"));
             });
}

}  // namespace thermocline
