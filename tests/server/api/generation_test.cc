#include "server/api/generation.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/http/json.h"
#include "tests/server/api/fake_service.h"
#include "tests/server/api/recording_writer.h"

namespace thermocline {
namespace {

class GenerationTest : public testing::Test {
 protected:
  std::shared_ptr<RecordingWriter> Run(bool chat, const std::string& body) {
    ApiRequest request;
    const auto error = chat ? ParseChatRequest(context_, body, request)
                            : ParseCompletionRequest(context_, body, request);
    EXPECT_FALSE(error) << error->message;
    auto writer = std::make_shared<RecordingWriter>();
    Generation::Start(context_, std::move(request), writer);
    return writer;
  }
  static Json Body(const RecordingWriter& writer) { return *ParseJson(writer.response.body); }

  // The events' data; the last one, [DONE], is checked and left out.
  static std::vector<Json> Events(const std::string& stream) {
    std::vector<Json> events;
    size_t begin = 0;
    while (begin < stream.size()) {
      const size_t end = stream.find("\n\n", begin);
      const std::string event = stream.substr(begin, end - begin);
      EXPECT_TRUE(event.starts_with("data: "));
      begin = end + 2;
      if (event == "data: [DONE]") {
        EXPECT_EQ(begin, stream.size());
        return events;
      }
      events.push_back(*ParseJson(event.substr(6)));
    }
    ADD_FAILURE() << "no [DONE]";
    return events;
  }

  FakeService service_;
  const ApiContext context_ = FakeContext(service_);
};

TEST_F(GenerationTest, AChatIsAnsweredInOpenAisForm) {
  const auto writer = Run(true, R"({"messages":[{"role":"user","content":"a"}],"n":2})");
  const Json body = Body(*writer);
  EXPECT_EQ(body["id"], "chatcmpl-42");
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["created"], 1700000000);
  EXPECT_EQ(body["model"], "fake");
  ASSERT_EQ(body["choices"].size(), 2U);
  EXPECT_EQ(body["choices"][1]["index"], 1);
  EXPECT_EQ(body["choices"][1]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][1]["message"]["content"], "Hello");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][1]["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["completion_tokens"], 10);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

TEST_F(GenerationTest, UsageAddsUpTheTiersOfAllPrompts) {
  const Json usage = Body(*Run(false, R"({"prompt":["a","b!","c"]})"))["usage"];
  EXPECT_EQ(usage["kv_tokens"], Json({{"hot", 9}, {"warm", 6}, {"cold", 3}, {"archive", 0}}));
  EXPECT_EQ(usage["reused_lossy_cache"], true);
  EXPECT_EQ(Body(*Run(false, R"({"prompt":"a"})"))["usage"]["reused_lossy_cache"], false);
}

TEST_F(GenerationTest, AStreamStartsWithTheRoleAndEndsWithTheUsage) {
  const auto writer = Run(true, R"({"messages":[{"role":"user","content":"a"}],"stream":true,)"
                                R"("stream_options":{"include_usage":true}})");
  EXPECT_TRUE(writer->response.content_type.starts_with("text/event-stream"));
  const std::vector<Json> events = Events(writer->stream);
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_TRUE(events[0]["usage"].is_null());
  EXPECT_EQ(events[1]["choices"][0]["delta"]["content"], "Hel");
  EXPECT_TRUE(events[1]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(events[2]["choices"][0]["delta"]["content"], "lo");
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(events[3]["choices"].empty());
  EXPECT_EQ(events[3]["usage"]["completion_tokens"], 5);
  EXPECT_TRUE(writer->ended);
}

TEST_F(GenerationTest, ContinuousUsageCountsInEveryChunk) {
  const auto writer = Run(false, R"({"prompt":"abc","stream":true,)"
                                 R"("stream_options":{"continuous_usage_stats":true}})");
  const std::vector<Json> events = Events(writer->stream);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0]["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(events[0]["usage"]["completion_tokens"], 3);
  EXPECT_EQ(events[1]["usage"]["completion_tokens"], 5);
}

TEST_F(GenerationTest, ChatLogprobsHaveBytesAndAlternatives) {
  const Json body = Body(*Run(
      true, R"({"messages":[{"role":"user","content":"a"}],"logprobs":true,"top_logprobs":2})"));
  const Json& content = body["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 5U);
  EXPECT_EQ(content[0]["token"], "H");
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["bytes"], Json::array({72}));
  EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "?");
}

TEST_F(GenerationTest, EchoPutsThePromptAndItsLogprobsFirst) {
  const Json body =
      Body(*Run(false, R"({"prompt":["ab","c"],"echo":true,"logprobs":1,"max_tokens":5})"));
  ASSERT_EQ(body["choices"].size(), 2U);
  EXPECT_EQ(body["choices"][0]["text"], "abHello");
  EXPECT_EQ(body["choices"][1]["text"], "cHello");
  const Json& logprobs = body["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::array({"<s>", "a", "b", "H", "e", "l", "l", "o"}));
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["token_logprobs"][1], -1.0);
  EXPECT_EQ(logprobs["token_logprobs"][3], -0.5);
  EXPECT_EQ(logprobs["text_offset"], Json::array({0, 0, 1, 2, 3, 4, 5, 6}));  // `<s>` is not shown
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["top_logprobs"][3]["?"], -1.5);
}

TEST_F(GenerationTest, PromptLogprobsStartWithNull) {
  const Json body = Body(*Run(false, R"({"prompt":"ab","prompt_logprobs":0})"));
  const Json& logprobs = body["choices"][0]["prompt_logprobs"];
  ASSERT_EQ(logprobs.size(), 3U);
  EXPECT_TRUE(logprobs[0].is_null());
  EXPECT_EQ(logprobs[1]["97"]["decoded_token"], "a");
  EXPECT_EQ(logprobs[1]["97"]["logprob"], -1.0);
}

TEST_F(GenerationTest, WhatBelongsToThePromptIsGivenOnceWhateverN) {
  for (const int n : {1, 2, 3}) {
    const Json chat =
        Body(*Run(true, fmt::format(R"({{"messages":[{{"role":"user","content":"a"}}],)"
                                    R"("prompt_logprobs":0,"return_token_ids":true,"n":{}}})",
                                    n)));
    EXPECT_EQ(chat["prompt_logprobs"].size(), chat["usage"]["prompt_tokens"]);
    EXPECT_EQ(chat["prompt_token_ids"].size(), chat["usage"]["prompt_tokens"]);
    const Json body = Body(*Run(
        false, fmt::format(R"({{"prompt":["ab","c"],"prompt_logprobs":2,"return_token_ids":true,)"
                           R"("echo":true,"logprobs":0,"n":{}}})",
                           n)));
    ASSERT_EQ(body["choices"].size(), 2U * static_cast<size_t>(n));
    for (size_t i = 0; i < body["choices"].size(); ++i) {
      const Json& choice = body["choices"][i];
      const size_t num_prompt = i < static_cast<size_t>(n) ? 3 : 2;
      EXPECT_EQ(choice["prompt_logprobs"].size(), num_prompt);
      EXPECT_EQ(choice["prompt_logprobs"][1].size(), 2U);
      EXPECT_EQ(choice["prompt_token_ids"].size(), num_prompt);
      EXPECT_EQ(choice["token_ids"], Json::array({72, 101, 108, 108, 111}));
      EXPECT_EQ(choice["logprobs"]["tokens"].size(), num_prompt + 5);
      EXPECT_EQ(choice["logprobs"]["top_logprobs"][1].size(), 1U);  // as many as `logprobs` asks
    }
  }
}

TEST_F(GenerationTest, AStreamGivesThePromptOnceToo) {
  const auto completions =
      Run(false, R"({"prompt":["ab","c"],"stream":true,"return_token_ids":true,)"
                 R"("echo":true,"logprobs":0,"n":2})");
  std::map<int, std::string> texts;
  std::map<int, Json> offsets;
  std::map<int, int> num_prompts;
  std::map<int, Json> ids;
  for (const Json& event : Events(completions->stream)) {
    const Json& choice = event["choices"][0];
    const int index = choice["index"];
    texts[index] += choice["text"].get<std::string>();
    num_prompts[index] += choice.contains("prompt_token_ids") ? 1 : 0;
    for (const Json& id : choice["token_ids"]) {
      ids[index].push_back(id);
    }
    for (const Json& offset : choice["logprobs"]["text_offset"]) {
      offsets[index].push_back(offset);
    }
  }
  EXPECT_EQ(texts, (std::map<int, std::string>{
                       {0, "abHello"}, {1, "abHello"}, {2, "cHello"}, {3, "cHello"}}));
  EXPECT_EQ(offsets[1], Json::array({0, 0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(offsets[3], Json::array({0, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(num_prompts, (std::map<int, int>{{0, 1}, {1, 1}, {2, 1}, {3, 1}}));
  EXPECT_EQ(ids[2].size(), 5U);

  const auto chat = Run(true, R"({"messages":[{"role":"user","content":"a"}],"stream":true,)"
                              R"("return_token_ids":true,"n":2})");
  const std::vector<Json> events = Events(chat->stream);
  EXPECT_TRUE(events[0].contains("prompt_token_ids"));
  for (size_t i = 1; i < events.size(); ++i) {
    EXPECT_FALSE(events[i].contains("prompt_token_ids"));
  }
  EXPECT_EQ(events[1]["choices"][0]["token_ids"], Json::array({72, 101, 108}));
}

TEST_F(GenerationTest, LogprobsNameTokensByIdWhenAsked) {
  const Json body =
      Body(*Run(false, R"({"prompt":"a","logprobs":1,"return_tokens_as_token_ids":true})"));
  const Json& logprobs = body["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"][0], "token_id:72");
  EXPECT_EQ(logprobs["top_logprobs"][0]["token_id:63"], -1.5);
  const Json chat = Body(*Run(true, R"({"messages":[{"role":"user","content":"a"}],)"
                                    R"("logprobs":true,"return_tokens_as_token_ids":true})"));
  const Json& token = chat["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "token_id:72");
  EXPECT_EQ(token["bytes"], Json::array({72}));
}

TEST_F(GenerationTest, AnEchoOfLoneBytesHasOneCharacterForEach) {
  const Json body = Body(*Run(false, R"({"prompt":[233,240,104,105],"echo":true,"logprobs":0})"));
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["text"], "\xef\xbf\xbd\xef\xbf\xbdhiHello");
  EXPECT_EQ(choice["logprobs"]["text_offset"], Json::array({0, 1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST_F(GenerationTest, WhatWasCutIsSaidOnce) {
  const std::string body = R"({"prompt":"abc","max_tokens":5000)";
  const Json whole = Body(*Run(false, body + "}"));
  ASSERT_EQ(whole["warnings"].size(), 1U);
  EXPECT_NE(whole["warnings"][0].get<std::string>().find("4092 of the 5000"), std::string::npos);
  const std::vector<Json> events = Events(Run(false, body + R"(,"stream":true})")->stream);
  EXPECT_EQ(events[0]["warnings"], whole["warnings"]);
  EXPECT_FALSE(events[1].contains("warnings"));
  EXPECT_FALSE(Body(*Run(false, R"({"prompt":"abc"})")).contains("warnings"));
}

TEST_F(GenerationTest, AFullQueueIs503WithRetryAfterAndCancelsItsSiblings) {
  service_.mode = FakeMode::kFull;
  const auto writer = Run(false, R"({"prompt":["a","b"],"stream":true})");
  EXPECT_EQ(writer->response.status, 503);
  EXPECT_EQ(writer->response.headers[0].first, "Retry-After");
  EXPECT_EQ(Body(*writer)["error"]["code"], "server_overloaded");
}

TEST_F(GenerationTest, AFailureMidStreamIsAnErrorEvent) {
  service_.mode = FakeMode::kBreak;
  const auto streamed = Run(false, R"({"prompt":"a","stream":true})");
  const std::vector<Json> events = Events(streamed->stream);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[1]["error"]["type"], "server_error");
  EXPECT_TRUE(streamed->ended);
  EXPECT_EQ(Run(false, R"({"prompt":"a"})")->response.status, 500);
}

TEST_F(GenerationTest, AClientThatGoesCancelsAllItsRequests) {
  service_.mode = FakeMode::kHold;
  const auto writer = Run(false, R"({"prompt":["a","b","c"]})");
  ASSERT_TRUE(writer->on_disconnect);
  std::exchange(writer->on_disconnect, nullptr)();
  EXPECT_EQ(service_.num_cancelled, 3);
  EXPECT_FALSE(writer->ended);
}

TEST_F(GenerationTest, AnAbortAnswersTheClient) {
  service_.mode = FakeMode::kHold;
  ApiRequest request;
  ASSERT_FALSE(ParseCompletionRequest(context_, R"({"prompt":"a"})", request));
  const auto writer = std::make_shared<RecordingWriter>();
  const auto generation = Generation::Start(context_, std::move(request), writer);
  generation->Abort(Unavailable("the server is shutting down"));
  EXPECT_EQ(writer->response.status, 503);
  EXPECT_EQ(service_.num_cancelled, 1);
}

TEST(ResponseJson, OffsetsOfWhatAStopStringCutAreAtTheTextsEnd) {
  const FakeTokenizer tokenizer;
  CompletionLogprobs logprobs;
  logprobs.Add(TokenNames(tokenizer), std::vector<TokenLogprobs>{{'a'}, {'s'}, {'t'}},
               std::vector<size_t>{0, 1, 2});
  EXPECT_EQ(logprobs.Take(1, false)["text_offset"], Json::array({0}));  // `st` is held back
  logprobs.Add(TokenNames(tokenizer), std::vector<TokenLogprobs>{{'o'}}, std::vector<size_t>{3});
  const Json rest = logprobs.Take(1, true);  // the stop string was `sto`
  EXPECT_EQ(rest["text_offset"], Json::array({1, 1, 1}));
  EXPECT_EQ(rest["tokens"], Json::array({"s", "t", "o"}));
}

TEST(ResponseJson, AnImpossibleTokensLogprobIsFinite) {
  const FakeTokenizer tokenizer;
  const TokenLogprobs never{'a', -std::numeric_limits<float>::infinity(), {}};
  EXPECT_EQ(ChatLogprobs(TokenNames(tokenizer), std::vector{never})["content"][0]["logprob"],
            -9999.0);
}

TEST(ResponseJson, APieceOfACharacterIsWrittenAsBytes) {
  const FakeTokenizer tokenizer;
  EXPECT_EQ(TokenNames(tokenizer).Of(0xE2), "bytes:\\xe2");
}

TEST(ResponseJson, StopReasonsAreStringsOrNumbers) {
  StopParams stop;
  stop.stop_strings = {"7"};
  stop.stop_token_ids = {5};
  EXPECT_EQ(StopReasonJson("7", stop), "7");
  EXPECT_EQ(StopReasonJson("5", stop), 5);
  EXPECT_TRUE(StopReasonJson("", stop).is_null());
}

}  // namespace
}  // namespace thermocline
