#include "engine/text/chat_template.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace thermocline {
namespace {

constexpr char kHi[] = R"([{"role": "user", "content": "hi"}])";

std::unique_ptr<ChatTemplate> Make(std::string_view source, ChatTemplateLimits limits = {}) {
  auto made = ChatTemplate::Create(source, {.bos_token = "<s>", .eos_token = "</s>"}, limits);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return made.ok() ? std::move(made).value() : nullptr;
}

Result<RenderedPrompt> Render(std::string_view source, ChatTemplateInput input = {}) {
  if (input.messages_json.empty()) {
    input.messages_json = kHi;
  }
  return Make(source)->Render(input);
}

std::string Text(std::string_view source, ChatTemplateInput input = {}) {
  const auto rendered = Render(source, std::move(input));
  return rendered.ok() ? rendered->text : "error: " + rendered.status().message();
}

TEST(ChatTemplate, SyntaxErrorNamesItsLine) {
  const auto made = ChatTemplate::Create("a\nb\n{% if %}", {}, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(made.status().message().find("line 3"), std::string::npos) << made.status().message();
}

TEST(ChatTemplate, ASourceThatIsTooLongIsRefused) {
  const auto made = ChatTemplate::Create(std::string((size_t{1} << 20) + 1, 'x'), {}, {});
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(made.status().message().find("1048577 bytes"), std::string::npos);
}

TEST(ChatTemplate, RaisedExceptionIsTheClientsError) {
  const auto rendered = Render("{{ raise_exception('roles must alternate') }}");
  EXPECT_EQ(rendered.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(rendered.status().message().find("roles must alternate"), std::string::npos);
}

TEST(ChatTemplate, ArgumentsReachTheTemplateButShadowNothing) {
  EXPECT_EQ(Text("{{ mood }}{{ bos_token }}", {.kwargs_json = R"({"mood": "calm"})"}), "calm<s>");
  const auto shadow = Render("{{ bos_token }}", {.kwargs_json = R"({"bos_token": "x"})"});
  EXPECT_EQ(shadow.status().code(), StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, StrftimeNowIsToday) {
  const std::string year = Text("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4U);
  EXPECT_GE(year, "2024");
}

TEST(ChatTemplate, TheOutputHasALimit) {
  const auto made = Make("{{ 'x' * 101 }}", {.max_output_bytes = 100});
  const auto rendered = made->Render({.messages_json = kHi});
  EXPECT_EQ(rendered.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(rendered.status().message(), "the chat template was ended: its output is too long");
  EXPECT_TRUE(
      Make("{{ 'x' * 100 }}", {.max_output_bytes = 100})->Render({.messages_json = kHi}).ok());
}

TEST(ChatTemplate, OrdinaryWorkIsNotRefused) {
  const auto one = [](std::string_view source, std::string_view want) {
    EXPECT_EQ(Text(source), want) << source;
  };
  one("{{ 'a-b' | replace('-', '+') }}{{ ['x', 1] | join(', ') }}", "a+bx, 1");
  one("{{ [1, 2.5] | sum }} {{ [{'n': 2}, {'n': 3}] | sum(attribute='n') }}", "3.5 5");
  one("{{ 'a\n\nb' | indent(2, true) }}", "  a\n\n  b");
  one("{{ {'b': [1, 'x']} | tojson }}{{ 2 ** 10 }}{{ 'ab' ~ 1 ~ none }}",
      "{\"b\": [1, \"x\"]}1024ab1None");
  one("{{ 'a b'.replace(' ', '_', 1) }}{{ ','.join(['a', 'b']) }}{{ [1] + [2] }}", "a_ba,b[1, 2]");
  one("{{ '%s is %d' % ('a', 5) }}{{ '{} {x}'.format('b', x=1) }}{{ '%s' | format('c') }}",
      "a is 5b 1c");
  one("{{ 'ab' | center(6) }}|{{ 'a b c' | wordwrap(1) }}", "  ab  |a\nb\nc");
}

TEST(ChatTemplate, ThreadsRenderAtOnce) {
  const auto made = Make("{{ messages[0].content }}");
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&made, t] {
      for (int i = 0; i < 50; ++i) {
        const std::string want = std::to_string(t * 1000 + i);
        const auto rendered =
            made->Render({.messages_json = R"([{"content": ")" + want + R"("}])"});
        ASSERT_TRUE(rendered.ok()) << rendered.status().message();
        EXPECT_EQ(rendered->text, want);
      }
    });
  }
}

std::string Continued(std::string_view source, const std::string& final) {
  return Text(source, {.messages_json = R"([{"role": "user", "content": "a letter of the end"},)"
                                        R"({"role": "assistant", "content": )" +
                                        final + "}]",
                       .add_generation_prompt = false,
                       .continue_final_message = true});
}

TEST(ChatTemplate, TheFinalMessageIsLeftOpenWhereItEnds) {
  constexpr const char* kEnds =
      "{% for m in messages %}[{{ m.role }}|{{ m.content }}]d</end>{% endfor %}";
  const std::string before = "[user|a letter of the end]d</end>[assistant|";
  for (const char* final : {"The", "d", "m", "e", "end", "]", "b ", " ", "</end>", "\\n"}) {
    const std::string shown = std::string(final) == "\\n" ? "\n" : final;
    EXPECT_EQ(Continued(kEnds, '"' + std::string(final) + '"'), before + shown);
  }
  constexpr const char* kTrims = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
  EXPECT_EQ(Continued(kTrims, "\" b \""), "[a letter of the end][b");
  constexpr const char* kThinks =
      "{% for m in messages %}[{{ m.content.split('</think>')[-1].lstrip('\\n') | upper }}]"
      "{% endfor %}";
  EXPECT_EQ(Continued(kThinks, R"("t</think>\n\nend")"), "[A LETTER OF THE END][END");
  constexpr const char* kQuotes = "{% for m in messages %}[{{ m.content | tojson }}]{% endfor %}";
  EXPECT_EQ(Continued(kQuotes, R"("e\"n")"), R"(["a letter of the end"]["e\"n)");
  constexpr const char* kParts = "{% for m in messages %}[{{ m.content[0].text }}]{% endfor %}";
  EXPECT_EQ(Continued(kParts, "\"end\""), "[a letter of the end][end");
}

TEST(ChatTemplate, AnEmptyFinalMessageContinuesItsTurn) {
  constexpr const char* kPlain = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
  constexpr const char* kTrims = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
  constexpr const char* kIfAny =
      "{% for m in messages %}{% if m.content %}[{{ m.content }}]{% endif %}{% endfor %}";
  for (const char* source : {kPlain, kTrims, kIfAny}) {
    EXPECT_EQ(Continued(source, "\"\""), "[a letter of the end][") << source;
    EXPECT_EQ(Continued(source, "null"), "[a letter of the end][") << source;
    EXPECT_EQ(Continued(source, "[]"), "[a letter of the end][") << source;
  }
  EXPECT_EQ(Continued(kTrims, "\" \""), "[a letter of the end][");
}

TEST(ChatTemplate, WhatCannotBeContinuedIsAnError) {
  constexpr const char* kDrops =
      "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
  EXPECT_NE(Continued(kDrops, "\"end\"").find("does not show the final message"),
            std::string::npos);
  const ChatTemplateInput both{
      .messages_json = kHi, .add_generation_prompt = true, .continue_final_message = true};
  EXPECT_EQ(Render("{{ messages }}", both).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace thermocline
