#include "server/api/refused_fields.h"

#include <gtest/gtest.h>

#include <string>

#include "server/api/text_endpoints.h"
#include "server/http/json.h"
#include "tests/server/api/fake_service.h"

namespace thermocline {
namespace {

// The field that is refused, or nothing.
std::string Refused(const std::string& body, FieldScope scope = FieldScope::kAll) {
  const Json root = *ParseJson(body);
  std::optional<ApiError> error;
  FieldReader fields(root, "", error);
  RefuseUnread(fields, scope);
  return error ? error->param : "";
}

struct Pair {
  std::string asks;      // for what is not done
  std::string harmless;  // the same field, asking for what happens anyway
};

class RefusedFields : public testing::TestWithParam<Pair> {};

TEST_P(RefusedFields, AreRefusedByNameUnlessTheyAskForNothing) {
  const std::string name = ParseJson("{" + GetParam().asks + "}")->begin().key();
  EXPECT_EQ(Refused("{" + GetParam().asks + "}"), name);
  EXPECT_EQ(Refused("{" + GetParam().harmless + "}"), "") << GetParam().harmless;
  EXPECT_EQ(Refused("{\"" + name + "\":null}"), "");
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedFields,
    testing::Values(
        Pair{R"("regex":"a+")", R"("regex":"")"}, Pair{R"("ebnf":"root ::= x")", R"("ebnf":"")"},
        Pair{R"("structural_tag":{"begin":"<"})", R"("structural_tag":{})"},
        Pair{R"("guided_json":{})", R"("guided_json":false)"},  // {}: any JSON
        Pair{R"("json_schema":{"type":"object"})", R"("json_schema":"")"},
        Pair{R"("guided_choice":["a"])", R"("guided_choice":[])"},
        Pair{R"("structured_outputs":{"regex":"a"})",
             R"("structured_outputs":{"regex":null,"json":null})"},
        Pair{R"("priority":1)", R"("priority":0)"}, Pair{R"("priority":-1)", R"("priority":0.0)"},
        Pair{R"("xtc_probability":0.5)", R"("xtc_probability":0)"},
        Pair{R"("xtc_threshold":0.2)", R"("xtc_threshold":0.2,"xtc_probability":0)"},
        Pair{R"("mirostat":2)", R"("mirostat":0)"},
        Pair{R"("mirostat_mode":1)", R"("mirostat_mode":0)"},
        Pair{R"("mirostat_tau":3)", R"("mirostat_tau":3,"mirostat_mode":0)"},
        Pair{R"("dry_multiplier":0.8)", R"("dry_multiplier":0)"},
        Pair{R"("dry_base":2)", R"("dry_base":1.75)"},
        Pair{R"("dry_sequence_breakers":["x"])", R"("dry_sequence_breakers":["\n",":","\"","*"])"},
        Pair{R"("typical_p":0.5)", R"("typical_p":1)"}, Pair{R"("tfs_z":0.9)", R"("tfs_z":1.0)"},
        Pair{R"("top_n_sigma":1)", R"("top_n_sigma":-1)"},
        Pair{R"("dynatemp_range":0.5)", R"("dynatemp_range":0)"},
        Pair{R"("logprob_token_ids":[1])", R"("logprob_token_ids":[])"},
        Pair{R"("stop_regex":"a")", R"("stop_regex":[])"},
        Pair{R"("use_beam_search":true)", R"("use_beam_search":false)"},
        Pair{R"("length_penalty":2)", R"("length_penalty":1)"},
        Pair{R"("truncate_prompt_tokens":5)", R"("truncate_prompt_tokens":null)"},
        Pair{R"("truncate_prompt_tokens":-1)", R"("truncate_prompt_tokens":null)"},
        Pair{R"("suffix":"a")", R"("suffix":"")"}, Pair{R"("documents":[{}])", R"("documents":[])"},
        Pair{R"("chat_template":"x")", R"("chat_template":"")"},
        Pair{R"("mm_processor_kwargs":{"a":1})", R"("mm_processor_kwargs":{})"},
        Pair{R"("lora":[{"id":0,"scale":1}])", R"("lora":[])"},
        Pair{R"("kv_transfer_params":{"do_remote_decode":true})",
             R"("kv_transfer_params":{"do_remote_decode":null})"},
        Pair{R"("bad_words":["a"])", R"("bad_words":[])"},
        Pair{R"("allowed_token_ids":[1])", R"("allowed_token_ids":[])"},
        Pair{R"("logits_processors":["a"])", R"("logits_processors":[])"},
        Pair{R"("modalities":["audio"])", R"("modalities":["text"])"},
        Pair{R"("audio":{"voice":"a"})", R"("audio":{})"},
        Pair{R"("prediction":{"type":"content"})", R"("prediction":{})"},
        Pair{R"("reasoning_effort":"high")", R"("reasoning_effort":"none")"},
        Pair{R"("functions":[{"name":"f"}])", R"("functions":[])"},
        Pair{R"("web_search_options":{})", R"("web_search_options":false)"},
        Pair{R"("do_sample":false)", R"("do_sample":true)"},
        Pair{R"("cache_prompt":false)", R"("cache_prompt":true)"},
        Pair{R"("n_probs":3)", R"("n_probs":0)"},
        Pair{R"("grammar":"root ::= x")", R"("grammar":"")"},
        Pair{R"("enable_thinking":true)", R"("enable_thinking":false)"},
        Pair{R"("echo":true)", R"("echo":false)"}, Pair{R"("prompt":"a")", R"("prompt":"")"},
        Pair{R"("return_hidden_states":true)", R"("return_hidden_states":false)"}));

TEST(RefuseUnread, WhatIsUnknownOrReadIsIgnored) {
  EXPECT_EQ(Refused(R"({"user":"u","metadata":{"a":1},"store":true,"service_tier":"flex",)"
                    R"("safety_identifier":"s","prompt_cache_key":"k","request_id":"r",)"
                    R"("spaces_between_special_tokens":false,"no_such_field":[1]})"),
            "");
  const Json root = *ParseJson(R"({"echo":true,"regex":"a"})");
  std::optional<ApiError> error;
  FieldReader fields(root, "", error);
  EXPECT_TRUE(fields.Bool("echo", false));
  EXPECT_EQ(fields.Unread(), (std::vector<std::string_view>{"regex"}));
  RefuseUnread(fields, FieldScope::kAll);
  EXPECT_EQ(error->param, "regex");
  EXPECT_EQ(error->http_status, 400);
}

TEST(RefuseUnread, AnOptionOfWhatIsOnIsRefusedWithIt) {
  EXPECT_EQ(Refused(R"({"mirostat_tau":3,"mirostat":2})"), "mirostat_tau");
  EXPECT_EQ(Refused(R"({"mirostat":2,"mirostat_tau":5})"), "mirostat");
}

TEST(RefuseUnread, TheTokenizerCaresAboutThePromptAlone) {
  EXPECT_EQ(Refused(R"({"mirostat":2,"stop_regex":"a","n_probs":5})", FieldScope::kPrompt), "");
  FakeService service;
  const ApiContext context = FakeContext(service);
  const auto param = [&](const std::string& fields) -> Json {
    const HttpResponse response = Tokenize(context, R"({"prompt":"a",)" + fields + "}");
    return response.status == 200 ? Json() : (*ParseJson(response.body))["error"]["param"];
  };
  EXPECT_EQ(param(R"("add_special":false)"), "add_special");
  EXPECT_EQ(param(R"("truncate_prompt_tokens":1)"), "truncate_prompt_tokens");
  EXPECT_EQ(param(R"("chat_template_kwargs":{"a":1})"), "chat_template_kwargs");
  EXPECT_TRUE(param(R"("temperature":0,"mirostat":2,"user":"u")").is_null());
}

TEST(Detokenize, MayLeaveControlTokensOut) {
  FakeService service;
  const ApiContext context = FakeContext(service);
  const auto text = [&](const std::string& fields) -> Json {
    return (
        *ParseJson(Detokenize(context, R"({"tokens":[256,97,257])" + fields + "}").body))["prompt"];
  };
  EXPECT_EQ(text(""), "<s>a</s>");
  EXPECT_EQ(text(R"(,"skip_special_tokens":true)"), "a");
}

}  // namespace
}  // namespace thermocline
