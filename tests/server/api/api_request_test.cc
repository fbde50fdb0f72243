#include "server/api/api_request.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/api/text_endpoints.h"
#include "server/http/json.h"
#include "tests/server/api/fake_service.h"

namespace thermocline {
namespace {

struct Parsed {
  ApiRequest request;
  std::optional<ApiError> error;
  std::string param() const { return error ? error->param : "no error"; }
};

Parsed ParseChat(const std::string& fields) {
  FakeService service;
  const ApiContext context = FakeContext(service);
  Parsed parsed;
  parsed.error = ParseChatRequest(context,
                                  R"({"messages":[{"role":"user","content":"hi"}])" +
                                      (fields.empty() ? "" : "," + fields) + "}",
                                  parsed.request);
  return parsed;
}

Parsed ParseCompletion(const std::string& body) {
  FakeService service;
  const ApiContext context = FakeContext(service);
  Parsed parsed;
  parsed.error = ParseCompletionRequest(context, body, parsed.request);
  return parsed;
}

std::string RenderedMessages(const std::string& messages) {
  FakeService service;
  const ApiContext context = FakeContext(service);
  ApiRequest request;
  const auto error = ParseChatRequest(context, R"({"messages":)" + messages + "}", request);
  return error ? error->param + " | " + error->message
               : service.tokenizer().Decode(request.prompts[0].prompt, true);
}

TEST(ApiRequest, DefaultsAreOpenAis) {
  const Parsed parsed = ParseChat("");
  ASSERT_FALSE(parsed.error) << parsed.error->message;
  const Request& request = parsed.request.prompts[0];
  EXPECT_FALSE(parsed.request.stream);
  EXPECT_EQ(request.num_choices, 1);
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.num_logprobs, -1);
  EXPECT_EQ(request.kv_fidelity, KvFidelity::kBalanced);
  EXPECT_EQ(request.stop.max_tokens, 4096 - static_cast<int>(request.prompt.size()));
  EXPECT_EQ(ParseCompletion(R"({"prompt":"a"})").request.prompts[0].stop.max_tokens, 16);
}

TEST(ApiRequest, EveryFieldReachesTheEngine) {
  const Parsed parsed = ParseChat(
      R"("temperature":0.5,"top_p":0.25,"top_k":7,"min_p":0.125,"repetition_penalty":1.5,)"
      R"("presence_penalty":-2,"frequency_penalty":2,"seed":-2,"logit_bias":{"5":-100,"299":100},)"
      R"("n":8,"max_completion_tokens":9,"min_tokens":3,"ignore_eos":true,"stop":["a","b"],)"
      R"("stop_token_ids":[1,299],"include_stop_str_in_output":true,"logprobs":true,)"
      R"("top_logprobs":20,"prompt_logprobs":0,"user":"u","metadata":{"a":"b"},"store":false,)"
      R"("service_tier":"auto","kv_fidelity":"high","response_format":{"type":"text"},"no_such_field":[1])");
  ASSERT_FALSE(parsed.error) << parsed.error->message;
  const Request& request = parsed.request.prompts[0];
  EXPECT_EQ(request.kv_fidelity, KvFidelity::kHigh);
  EXPECT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_EQ(request.sampling.top_p, 0.25F);
  EXPECT_EQ(request.sampling.top_k, 7);
  EXPECT_EQ(request.sampling.min_p, 0.125F);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(request.sampling.presence_penalty, -2);
  EXPECT_EQ(request.sampling.frequency_penalty, 2);
  EXPECT_EQ(request.sampling.seed, ~uint64_t{1});
  EXPECT_EQ(request.sampling.logit_bias,
            (std::vector<std::pair<TokenId, float>>{{5, -100.0F}, {299, 100.0F}}));
  EXPECT_EQ(request.num_choices, 8);
  EXPECT_EQ(request.stop.max_tokens, 9);
  EXPECT_EQ(request.stop.min_tokens, 3);
  EXPECT_TRUE(request.stop.ignore_eos);
  EXPECT_EQ(request.stop.stop_strings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.stop.stop_token_ids, (std::vector<TokenId>{1, 299}));
  EXPECT_TRUE(request.stop.include_stop_string);
  EXPECT_EQ(request.sampling.num_logprobs, 20);
  EXPECT_EQ(request.num_prompt_logprobs, 0);
}

// Every numeric field against the limits of the types it could overflow.
struct NumericField {
  std::string name;
  std::string good;  // one value at the edge of what is allowed
};

class NumericFields : public testing::TestWithParam<NumericField> {};

TEST_P(NumericFields, ValuesOutsideTheRangeAreRefusedByName) {
  const auto& [name, good] = GetParam();
  const std::vector<std::string> values = {"-9223372036854775809",
                                           "-9223372036854775808",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "18446744073709551616",
                                           "-2147483649",
                                           "1e308",
                                           "-1e308",
                                           "\"1\"",
                                           "[]",
                                           "{}",
                                           "true"};
  for (const std::string& value : values) {
    if (name == "seed" && (value[1] == '9' || value[0] == '9') && value != "-9223372036854775809") {
      continue;  // all 64-bit numbers are seeds
    }
    if (name == "seed" && value == "-2147483649") {
      continue;
    }
    const std::string field = fmt::format("\"logprobs\":true,\"{}\":{}", name, value);
    EXPECT_EQ(ParseChat(field).param(), name) << field;
  }
  const Parsed parsed = ParseChat(fmt::format("\"logprobs\":true,\"{}\":{}", name, good));
  EXPECT_EQ(parsed.param(), "no error") << parsed.error->message;
}

INSTANTIATE_TEST_SUITE_P(
    Chat, NumericFields,
    testing::Values(NumericField{"temperature", "0"}, NumericField{"top_p", "1"},
                    NumericField{"top_k", "2147483647"}, NumericField{"min_p", "1.0"},
                    NumericField{"repetition_penalty", "100"},
                    NumericField{"presence_penalty", "-2.0"},
                    NumericField{"frequency_penalty", "2"}, NumericField{"seed", "-1"},
                    NumericField{"n", "8"}, NumericField{"max_tokens", "4000"},
                    NumericField{"max_completion_tokens", "1"}, NumericField{"min_tokens", "0"},
                    NumericField{"top_logprobs", "20"}, NumericField{"prompt_logprobs", "20"}),
    [](const auto& test) { return test.param.name; });

struct BadField {
  std::string fields;
  std::string param;
};

class BadFields : public testing::TestWithParam<BadField> {};

TEST_P(BadFields, AreRefusedByPath) {
  const Parsed parsed = ParseChat(GetParam().fields);
  EXPECT_EQ(parsed.param(), GetParam().param) << GetParam().fields;
}

INSTANTIATE_TEST_SUITE_P(
    Chat, BadFields,
    testing::Values(
        BadField{R"("n":0)", "n"}, BadField{R"("n":9)", "n"}, BadField{R"("n":1.5)", "n"},
        BadField{R"("top_p":-0.1)", "top_p"}, BadField{R"("max_tokens":0)", "max_tokens"},
        BadField{R"("max_tokens":-2)", "max_tokens"},
        BadField{R"("max_tokens":5,"max_completion_tokens":6)", "max_completion_tokens"},
        BadField{R"("n_predict":5,"max_tokens":6)", "n_predict"},
        BadField{R"("repetition_penalty":1.1,"repeat_penalty":1.2)", "repeat_penalty"},
        BadField{R"("repeat_penalty":1.2,"repeat_last_n":64)", "repeat_last_n"},
        BadField{R"("min_tokens":1,"min_new_tokens":2)", "min_new_tokens"},
        BadField{R"("logprobs":5)", "logprobs"}, BadField{R"("best_of":2)", "best_of"},
        BadField{R"("cache_salt":"")", "cache_salt"}, BadField{R"("cache_salt":5)", "cache_salt"},
        BadField{R"("cache_salt":"a","session_id":"b")", "cache_salt"},
        BadField{R"("skip_special_tokens":0)", "skip_special_tokens"},
        BadField{R"("return_token_ids":"yes")", "return_token_ids"},
        BadField{R"("response_format":{"json_schema":{}})", "response_format.type"},
        BadField{R"("tools":[{"type":"function","function":{"name":"f"}}])", "tools"},
        BadField{R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto")",
                 "tools"},
        BadField{R"("top_logprobs":5)", "top_logprobs"},
        BadField{R"("logit_bias":{"300":1})", "logit_bias.300"},
        BadField{R"("logit_bias":{"-1":1})", "logit_bias.-1"},
        BadField{R"("logit_bias":{"1x":1})", "logit_bias.1x"},
        BadField{R"("logit_bias":{"1":101})", "logit_bias.1"},
        BadField{R"("logit_bias":[1])", "logit_bias"},
        BadField{R"("stop_token_ids":[1,300])", "stop_token_ids[1]"},
        BadField{R"("stop_token_ids":[-1])", "stop_token_ids[0]"},
        BadField{R"("stop_token_ids":[1.5])", "stop_token_ids[0]"}, BadField{R"("stop":5)", "stop"},
        BadField{R"("stop":["a",""])", "stop"}, BadField{R"("stream":1)", "stream"},
        BadField{R"("stream_options":{"include_usage":true})", "stream_options"},
        BadField{R"("stream":true,"stream_options":{"include_usage":1})",
                 "stream_options.include_usage"},
        BadField{R"("stream":true,"prompt_logprobs":1)", "prompt_logprobs"},
        BadField{R"("min_tokens":5,"max_tokens":4)", "min_tokens"},
        BadField{R"("response_format":{"type":"json_object"})", "response_format.type"},
        BadField{R"("tool_choice":"required")", "tool_choice"},
        BadField{R"("tool_choice":{"type":"function"})", "tool_choice"},
        BadField{R"("tools":[1])", "tools[0]"}, BadField{R"("functions":[{}])", "functions"},
        BadField{R"("modalities":["audio"])", "modalities"},
        BadField{R"("chat_template":"x")", "chat_template"}, BadField{R"("model":5)", "model"},
        BadField{R"("continue_final_message":true,"add_generation_prompt":true)",
                 "continue_final_message"}));

TEST(ApiRequest, UnknownModelIs404) {
  const Parsed parsed = ParseChat(R"("model":"gpt-4")");
  ASSERT_TRUE(parsed.error);
  EXPECT_EQ(parsed.error->http_status, 404);
  EXPECT_EQ(parsed.error->code, "model_not_found");
  EXPECT_FALSE(ParseChat(R"("model":"other-name")").error);
}

TEST(ApiRequest, MessagesReachTheTemplateAsTheyCame) {
  EXPECT_EQ(RenderedMessages(R"([{"role":"user","content":[{"type":"input_text","text":"a"},)"
                             R"({"type":"text","text":"b"}]}])"),
            R"([{"role":"user","content":[{"type":"text","text":"a"},)"
            R"({"type":"text","text":"b"}]}]+)");
  const std::string call = R"([{"role":"assistant","content":null,"tool_calls":[{"function":)"
                           R"({"name":"f","arguments":"{\"x\":1}"}}]}])";
  EXPECT_EQ(RenderedMessages(call), call + "+");
}

TEST(ApiRequest, BadMessagesAreRefusedByPath) {
  EXPECT_TRUE(RenderedMessages("[]").starts_with("messages |"));
  EXPECT_TRUE(RenderedMessages("5").starts_with("messages |"));
  EXPECT_TRUE(RenderedMessages("[5]").starts_with("messages[0] |"));
  EXPECT_TRUE(RenderedMessages(R"([{"content":"a"}])").starts_with("messages[0].role |"));
  EXPECT_TRUE(RenderedMessages(R"([{"role":"user"}])").starts_with("messages[0].content |"));
  EXPECT_TRUE(
      RenderedMessages(R"([{"role":"user","content":{}}])").starts_with("messages[0].content |"));
  EXPECT_TRUE(RenderedMessages(
                  R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])")
                  .starts_with("messages[0].content[0].type | "));
}

TEST(ApiRequest, ATemplatesErrorIs400) {
  const Parsed parsed = ParseChat(R"("chat_template_kwargs":{},"n":1)");
  EXPECT_FALSE(parsed.error);
  EXPECT_EQ(RenderedMessages(R"([{"role":"user","content":"raise"}])"),
            "messages | the template says no");
}

// A chat that offers tools would wait for calls that nothing finds in the text.
TEST(ApiRequest, ToolsAreGivenToTheTemplateByTokenizeAlone) {
  FakeService service;
  const ApiContext context = FakeContext(service);
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f"}}])";
  const auto count = [&](const std::string& fields) -> int {
    return (*ParseJson(
        Tokenize(context, R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}")
            .body))["count"];
  };
  EXPECT_GT(count(tools), count(tools + R"(,"tool_choice":"none")"));
  EXPECT_FALSE(ParseChat(tools + R"(,"tool_choice":"none")").error);
  EXPECT_FALSE(ParseChat(R"("tools":[],"tool_choice":"auto")").error);
}

TEST(ApiRequest, AChatHasNoBosButTheTemplatesOwn) {
  EXPECT_NE(ParseChat("").request.prompts[0].prompt[0], FakeTokenizer::kBos);
  EXPECT_EQ(ParseChat(R"("add_special_tokens":true)").request.prompts[0].prompt[0],
            FakeTokenizer::kBos);
}

TEST(ApiRequest, PromptsComeInFourForms) {
  const auto tokens = [](const std::string& prompt) {
    const Parsed parsed = ParseCompletion(fmt::format(R"({{"prompt":{}}})", prompt));
    std::vector<std::vector<TokenId>> result;
    for (const Request& request : parsed.request.prompts) {
      result.push_back(request.prompt);
    }
    return result;
  };
  using Tokens = std::vector<std::vector<TokenId>>;
  EXPECT_EQ(tokens(R"("a<|ctl|>")"), (Tokens{{256, 'a', 258}}));
  EXPECT_EQ(tokens(R"(["a","b"])"), (Tokens{{256, 'a'}, {256, 'b'}}));
  EXPECT_EQ(tokens("[5,6]"), (Tokens{{5, 6}}));  // ids are taken as they are
  EXPECT_EQ(tokens("[[5],[6,7]]"), (Tokens{{5}, {6, 7}}));
}

TEST(ApiRequest, BadPromptsAreRefusedByPath) {
  const auto param = [](const std::string& fields) { return ParseCompletion(fields).param(); };
  EXPECT_EQ(param("{}"), "prompt");
  EXPECT_EQ(param(R"({"prompt":[]})"), "prompt");
  EXPECT_EQ(param(R"({"prompt":[[]]})"), "prompt");
  EXPECT_EQ(param(R"({"prompt":5})"), "prompt");
  EXPECT_EQ(param(R"({"prompt":[5,300]})"), "prompt[1]");
  EXPECT_EQ(param(R"({"prompt":[5,"a"]})"), "prompt[1]");
  EXPECT_EQ(param(R"({"prompt":[[5],[-1]]})"), "prompt[1][0]");
  EXPECT_EQ(param(R"({"prompt":["a",5]})"), "prompt[1]");
  EXPECT_EQ(param(R"({"prompt":"a","suffix":"b"})"), "suffix");
  EXPECT_EQ(param(R"({"prompt":"a","best_of":2})"), "best_of");
  EXPECT_EQ(param(R"({"prompt":"a","best_of":2,"n":2})"), "no error");
  EXPECT_EQ(param(R"({"prompt":"a","logprobs":21})"), "logprobs");
  EXPECT_EQ(param(R"({"prompt":"a","max_tokens":0})"), "max_tokens");
  EXPECT_EQ(param(R"({"prompt":"a","max_tokens":0,"echo":true})"), "no error");
  EXPECT_EQ(param(R"({"prompt":"a","messages":[{"role":"user"}]})"), "messages");
  EXPECT_EQ(param(R"({"prompt":"a","top_logprobs":2})"), "top_logprobs");
  EXPECT_EQ(param(R"({"prompt":"a","tools":[{}]})"), "tools");
  std::string many = "\"a\"";
  for (int i = 0; i < 64; ++i) {
    many += ",\"a\"";
  }
  EXPECT_EQ(param(R"({"prompt":[)" + many + "]}"), "prompt");
}

TEST(ApiRequest, ATooLongPromptIsRefusedWithTheCounts) {
  const std::string body = R"({"prompt":")" + std::string(5000, 'a') + "\"}";
  const Parsed parsed = ParseCompletion(body);
  ASSERT_TRUE(parsed.error);
  EXPECT_EQ(parsed.error->http_status, 400);
  EXPECT_EQ(parsed.error->code, "context_length_exceeded");
  EXPECT_NE(parsed.error->message.find("5001 tokens"), std::string::npos);
  EXPECT_NE(parsed.error->message.find("4096 tokens"), std::string::npos);
}

TEST(ApiRequest, MaxTokensBeyondTheRoomIsCutWithAWarning) {
  const auto parse = [](const std::string& fields) {
    return ParseCompletion(R"({"prompt":"abc",)" + fields + "}");
  };
  const Parsed cut = parse(R"("max_tokens":4093,"min_tokens":4093)");
  ASSERT_FALSE(cut.error) << cut.error->message;
  EXPECT_EQ(cut.request.prompts[0].stop.max_tokens, 4092);
  EXPECT_EQ(cut.request.prompts[0].stop.min_tokens, 4092);
  ASSERT_EQ(cut.request.warnings.size(), 1U);
  EXPECT_NE(cut.request.warnings[0].find("4092 of the 4093"), std::string::npos);
  EXPECT_TRUE(parse(R"("max_tokens":4092)").request.warnings.empty());
  for (const std::string field : {"max_tokens", "max_completion_tokens", "n_predict"}) {
    const Parsed all = parse(fmt::format("\"{}\":-1", field));
    EXPECT_EQ(all.request.prompts[0].stop.max_tokens, 4092) << field;
    EXPECT_TRUE(all.request.warnings.empty());
  }
  EXPECT_EQ(parse(R"("max_tokens":9007199254740991)").request.prompts[0].stop.max_tokens, 4092);
  EXPECT_EQ(parse(R"("max_tokens":5000,"min_tokens":5001)").param(), "min_tokens");
}

TEST(ApiRequest, AFullContextMayBeScored) {
  const auto parse = [](size_t num_tokens, const std::string& fields) {
    return ParseCompletion(R"({"prompt":")" + std::string(num_tokens - 1, 'a') + "\"," + fields +
                           "}");
  };
  EXPECT_FALSE(parse(4096, R"("max_tokens":0,"echo":true,"logprobs":0)").error);
  EXPECT_FALSE(parse(4096, R"("max_tokens":0,"prompt_logprobs":0)").error);
  EXPECT_EQ(parse(4096, R"("max_tokens":1)").param(), "prompt");
  EXPECT_EQ(parse(4096, R"("max_tokens":-1)").param(), "prompt");
  EXPECT_EQ(parse(4097, R"("max_tokens":0,"echo":true)").param(), "prompt");
  EXPECT_FALSE(ParseChat(R"("max_tokens":0,"prompt_logprobs":0)").error);
}

TEST(ApiRequest, OtherNamesOfAFieldAreHonoured) {
  const Parsed parsed = ParseChat(
      R"("repeat_penalty":1.25,"repeat_last_n":-1,"max_new_tokens":7,"min_new_tokens":2,)"
      R"("top_p":0,"seed":-1,"skip_special_tokens":false,"return_token_ids":true,"best_of":1,)"
      R"("return_tokens_as_token_ids":true,"max_tokens":7.0,"stream_options":{})");
  ASSERT_FALSE(parsed.error) << parsed.error->message;
  const Request& request = parsed.request.prompts[0];
  EXPECT_EQ(request.sampling.repetition_penalty, 1.25F);
  EXPECT_EQ(request.stop.max_tokens, 7);
  EXPECT_EQ(request.stop.min_tokens, 2);
  EXPECT_EQ(request.sampling.top_p, 0);
  EXPECT_FALSE(request.sampling.seed.has_value());  // drawn anew, as for others
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_TRUE(parsed.request.return_token_ids);
  EXPECT_TRUE(parsed.request.tokens_as_ids);
}

TEST(ApiRequest, ACacheSaltPartsThePrefixCache) {
  const auto tenant = [](const std::string& fields) {
    return ParseChat(fields).request.prompts[0].tenant;
  };
  EXPECT_EQ(tenant(""), "default");
  EXPECT_EQ(tenant(R"("cache_salt":null)"), "default");
  EXPECT_EQ(tenant(R"("cache_salt":"a")"), tenant(R"("cache_salt":"a")"));
  EXPECT_NE(tenant(R"("cache_salt":"a")"), tenant(R"("cache_salt":"b")"));
  EXPECT_NE(tenant(R"("cache_salt":"a")"), "default");
  EXPECT_EQ(ParseChat(fmt::format(R"("cache_salt":"{}")", std::string(129, 'a'))).param(),
            "cache_salt");
}

TEST(ApiRequest, LogprobsOfCompletionsMayBeTrueOrFalse) {
  const auto num_logprobs = [](const std::string& value) {
    return ParseCompletion(R"({"prompt":"a","logprobs":)" + value + "}")
        .request.prompts[0]
        .sampling.num_logprobs;
  };
  EXPECT_EQ(num_logprobs("true"), 1);
  EXPECT_EQ(num_logprobs("false"), -1);
  EXPECT_EQ(num_logprobs("0"), 0);
}

TEST(ApiRequest, ABodyMustBeAnObject) {
  EXPECT_EQ(ParseCompletion("[]").error->http_status, 400);
  EXPECT_EQ(ParseCompletion("{").error->code, "invalid_json");
}

}  // namespace
}  // namespace thermocline
