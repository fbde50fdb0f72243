#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/api/openai_api.h"
#include "server/http/router.h"
#include "tests/server/api/fake_service.h"
#include "tests/server/api/recording_writer.h"

namespace thermocline {
namespace {

EngineStats SomeStats() {
  EngineStats stats;
  stats.scheduler = {.num_running = 2, .num_waiting = 1, .num_preemptions = 4};
  stats.steps.generated_tokens = 1234567890123;
  stats.arena.tier_pages = {5, 3, 2};
  stats.arena.tier_bytes = {500, 160, 20};
  stats.arena.tier_page_bytes = {100, 52, 10};
  stats.arena.bytes = 1000;
  stats.arena.free_bytes = 320;
  stats.arena.num_superblocks = 4;
  stats.arena.num_empty_superblocks = 1;
  stats.moves.num_moving = 1;
  stats.moves.seconds = 0.5;
  stats.steps.seconds = 20;
  stats.tiers = {
      .moves = {1, 8, 6, 2}, .compactions = 3, .not_finite = 7, .corrupt = 9, .refused = 4};
  stats.calibration.state = CalibrationState::kMeasuring;
  stats.calibration.fraction = 0.25;
  return stats;
}

class KvEndpointsTest : public testing::Test {
 protected:
  KvEndpointsTest() { service_.engine_stats = SomeStats(); }

  HttpResponse Get(const std::string& path) { return Send("GET", path); }
  HttpResponse Send(const std::string& method, const std::string& path, HttpHeaders headers = {},
                    std::string body = {}) {
    OpenAiApi api(context_, "1.2.3", 1);
    Router router([] { return std::string("id"); });
    api.AddRoutes(router);
    auto request = std::make_shared<HttpRequest>();
    request->method = method;
    request->path = path;
    request->headers = std::move(headers);
    request->body = std::move(body);
    const auto writer = std::make_shared<RecordingWriter>();
    router.Handle(request, writer);
    return writer->response;
  }

  FakeService service_;
  ApiContext context_ = FakeContext(service_);
};

TEST_F(KvEndpointsTest, KvTellsTiersMovesAndEnergies) {
  context_.kv_policy = "cold";
  context_.kv_fidelity = KvFidelity::kMax;
  const Json kv = *ParseJson(Get("/v1/kv").body);
  EXPECT_EQ(kv["policy"], "cold");
  EXPECT_EQ(kv["fidelity"], "max");
  EXPECT_TRUE(kv["budget"].is_null());
  EXPECT_EQ(kv["page_tokens"], 64);
  EXPECT_EQ(kv["arena"]["free_bytes"], 320);
  EXPECT_EQ(kv["tiers"]["warm"], Json({{"pages", 3}, {"bytes", 160}, {"page_bytes", 52}}));
  EXPECT_EQ(kv["moves"]["ended"], Json({{"hot", 1}, {"warm", 8}, {"cold", 6}, {"archive", 2}}));
  EXPECT_EQ(kv["moves"]["failed"],
            Json({{"not_finite", 7}, {"corrupt", 9}, {"device", 0}, {"refused", 4}}));
  EXPECT_EQ(kv["moves"]["in_flight"], 1);
  EXPECT_EQ(kv["moves"]["share_of_step_time"], 0.025);
  EXPECT_EQ(kv["preemptions"], 4);
  EXPECT_EQ(
      kv["calibration"],
      Json({{"state", "measuring"}, {"fraction", 0.25}, {"formats", "safe"}, {"cold_kl", Json()}}));
  service_.engine_stats.calibration.state = CalibrationState::kCalibrated;
  service_.engine_stats.calibration.cold_kl = 0.5;
  const Json calibrated = (*ParseJson(Get("/v1/kv").body))["calibration"];
  EXPECT_EQ(calibrated["formats"], "calibrated");
  EXPECT_EQ(calibrated["cold_kl"], 0.5);
  EXPECT_EQ(kv["energy_log2"]["hot"], Json({{"-2", 5}, {"unseen", 2}}));
  EXPECT_EQ(kv["energy_log2"]["cold"], Json::object());
}

TEST_F(KvEndpointsTest, KvShowsEachSequencesPagesInOrder) {
  service_.sequences = {
      {.request = 7,
       .choice = 1,
       .label = "chatcmpl-1",
       .num_tokens = 200,
       .pages = {Tier::kWarm, Tier::kCold, Tier::kCold, Tier::kHot}},
      {.request = 8, .choice = 0, .label = "", .num_tokens = 1, .pages = {Tier::kHot}}};
  const Json kv = *ParseJson(Get("/v1/kv").body);
  EXPECT_EQ(kv["sequences"][0],
            Json({{"id", "chatcmpl-1"}, {"choice", 1}, {"tokens", 200}, {"pages", "wcch"}}));
  EXPECT_EQ(kv["sequences"][1]["id"], "8");
}

TEST_F(KvEndpointsTest, MetricsAreInPrometheusTextFormat) {
  const HttpResponse response = Get("/metrics");
  EXPECT_EQ(response.content_type, "text/plain; version=0.0.4; charset=utf-8");
  for (const char* line : {
           "# TYPE thermocline_num_requests_running gauge\n",
           "thermocline_num_requests_running{model_name=\"fake\"} 2\n",
           "# TYPE thermocline_num_preemptions_total counter\n",
           "thermocline_generation_tokens_total{model_name=\"fake\"} 1234567890123\n",
           "thermocline_kv_pages{model_name=\"fake\",tier=\"warm\"} 3\n",
           "thermocline_kv_bytes{model_name=\"fake\",tier=\"cold\"} 20\n",
           "# TYPE thermocline_kv_moves_total counter\n",
           "thermocline_kv_moves_total{model_name=\"fake\",tier=\"cold\"} 6\n",
           "thermocline_kv_move_failures_total{model_name=\"fake\",reason=\"corrupt\"} 9\n",
           "thermocline_kv_move_seconds_total{model_name=\"fake\"} 0.5\n",
           "thermocline_kv_calibration_fraction{model_name=\"fake\"} 0.25\n",
           "thermocline_kv_calibrated{model_name=\"fake\"} 0\n",
           "thermocline_kv_arena_bytes{model_name=\"fake\"} 1000\n",
       }) {
    EXPECT_NE(response.body.find(line), std::string::npos) << line << response.body;
  }
}

TEST_F(KvEndpointsTest, TheStoreIsShownWhereThereIsOne) {
  EXPECT_TRUE((*ParseJson(Get("/v1/kv").body))["store"].is_null());
  EXPECT_EQ(Get("/metrics").body.find("kv_store"), std::string::npos);
  service_.engine_stats.scheduler.restored_tokens = 640;
  service_.engine_stats.scheduler.num_woken = 3;
  service_.engine_stats.scheduler.num_unwoken = 4;
  service_.engine_stats.store = StoreUsage{.num_pages = 9,
                                           .num_memory_pages = 2,
                                           .memory_bytes = 20,
                                           .num_disk_pages = 8,
                                           .disk_bytes = 80,
                                           .num_hits = 5,
                                           .num_damaged = 1,
                                           .disk_failing = true};
  const Json store = (*ParseJson(Get("/v1/kv").body))["store"];
  EXPECT_EQ(store["pages"], 9);
  EXPECT_EQ(store["memory"], Json({{"pages", 2}, {"bytes", 20}}));
  EXPECT_EQ(store["disk"], Json({{"pages", 8}, {"bytes", 80}}));
  EXPECT_EQ(store["restored_tokens"], 640);
  EXPECT_EQ(store["disk_failing"], true);
  EXPECT_EQ(store["woken_pages"], 3);
  EXPECT_EQ(store["failed_wakes"], 4);
  const std::string metrics = Get("/metrics").body;
  for (const char* line :
       {"thermocline_prefix_cache_restored_tokens_total{model_name=\"fake\"} 640\n",
        "thermocline_kv_woken_pages_total{model_name=\"fake\"} 3\n",
        "thermocline_kv_store_bytes{model_name=\"fake\",place=\"disk\"} 80\n",
        "thermocline_kv_store_failures_total{model_name=\"fake\",reason=\"damaged\"} 1\n"}) {
    EXPECT_NE(metrics.find(line), std::string::npos) << line << metrics;
  }
}

TEST_F(KvEndpointsTest, SessionsAreSavedRestoredListedAndDeleted) {
  const HttpResponse saved = Send("POST", "/v1/kv/sessions/talk/save");
  EXPECT_EQ(saved.status, 200);
  Json expected = {{"id", "talk"},       {"object", "kv.session"}, {"tokens", 100},
                   {"saved_tokens", 64}, {"bytes", 4096},          {"saved_at", 1700000001}};
  EXPECT_EQ(*ParseJson(saved.body), expected);
  const Json list = *ParseJson(Get("/v1/kv/sessions").body);
  EXPECT_EQ(list, Json({{"object", "list"}, {"data", Json::array({expected})}}));
  Json restored = expected;
  restored["restored_tokens"] = 32;
  EXPECT_EQ(*ParseJson(Send("POST", "/v1/kv/sessions/talk/restore").body), restored);
  expected["deleted"] = true;
  EXPECT_EQ(*ParseJson(Send("DELETE", "/v1/kv/sessions/talk").body), expected);
  EXPECT_EQ(service_.session_calls,
            (std::vector<std::string>{"save default talk", "list default", "restore default talk",
                                      "delete default talk"}));
}

TEST_F(KvEndpointsTest, ErrorsOfSessionsKeepTheirCodes) {
  for (const auto& [code, http_status] : {std::pair(StatusCode::kNotFound, 404),
                                          {StatusCode::kUnimplemented, 501},
                                          {StatusCode::kInvalidArgument, 400},
                                          {StatusCode::kResourceExhausted, 503}}) {
    service_.session_error = {code, "it cannot be"};
    for (const HttpResponse& response :
         {Get("/v1/kv/sessions"), Send("POST", "/v1/kv/sessions/talk/save"),
          Send("POST", "/v1/kv/sessions/talk/restore"), Send("DELETE", "/v1/kv/sessions/talk")}) {
      EXPECT_EQ(response.status, http_status);
      EXPECT_EQ((*ParseJson(response.body))["error"]["message"], "it cannot be");
    }
  }
}

TEST_F(KvEndpointsTest, WhatIsNoCallOnASessionReachesNoEngine) {
  EXPECT_EQ(Send("POST", "/v1/kv/sessions/talk").status, 404);
  EXPECT_EQ(Send("POST", "/v1/kv/sessions/talk/forget").status, 404);
  EXPECT_EQ(Send("POST", "/v1/kv/sessions/talk/save/again").status, 404);
  EXPECT_EQ(Send("POST", "/v1/kv/sessions").status, 405);
  EXPECT_TRUE(service_.session_calls.empty());
}

TEST_F(KvEndpointsTest, CallsOnSessionsTakeNoFields) {
  const auto param = [&](const std::string& body) {
    const HttpResponse response = Send("POST", "/v1/kv/sessions/talk/save", {}, body);
    return response.status == 200 ? Json() : (*ParseJson(response.body))["error"]["param"];
  };
  EXPECT_TRUE(param("{}").is_null());
  EXPECT_TRUE(param(R"({"cache_salt":null})").is_null());
  EXPECT_EQ(service_.session_calls.size(), 2U);
  EXPECT_EQ(param(R"({"filename":"x.bin"})"), "filename");
  EXPECT_EQ(Send("POST", "/v1/kv/sessions/talk/restore", {}, "[").status, 400);
  EXPECT_EQ(service_.session_calls.size(), 2U);
}

TEST_F(KvEndpointsTest, RequestsNameTheirSession) {
  const auto parse = [&](const std::string& body) {
    ApiRequest request;
    const std::optional<ApiError> error = ParseCompletionRequest(context_, body, request);
    return error ? error->param : request.prompts[0].session_id;
  };
  EXPECT_EQ(parse(R"({"prompt":"a","session_id":"my-talk_1.b"})"), "my-talk_1.b");
  EXPECT_EQ(parse(R"({"prompt":"a"})"), "");
  EXPECT_EQ(parse(R"({"prompt":"a","session_id":"../x"})"), "session_id");
  EXPECT_EQ(parse(R"({"prompt":"a","session_id":7})"), "session_id");
  EXPECT_EQ(parse(R"({"prompt":["a","b"],"session_id":"x"})"), "session_id");
  ApiRequest chat;
  ASSERT_FALSE(ParseChatRequest(
      context_, R"({"messages":[{"role":"user","content":"a"}],"session_id":"x"})", chat));
  EXPECT_EQ(chat.prompts[0].session_id, "x");
}

TEST_F(KvEndpointsTest, ResponseIdsReachTheEngineAsLabels) {
  ApiRequest request;
  ASSERT_FALSE(ParseCompletionRequest(context_, R"({"prompt":["a","b"]})", request));
  const auto writer = std::make_shared<RecordingWriter>();
  Generation::Start(context_, std::move(request), writer);
  const std::string id = (*ParseJson(writer->response.body))["id"];
  ASSERT_EQ(service_.requests().size(), 2U);
  EXPECT_EQ(service_.requests()[0].label, id);
  EXPECT_EQ(service_.requests()[1].label, id);
}

}  // namespace
}  // namespace thermocline
