#include "engine/text/chat_template.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace thermocline {
namespace {

constexpr ChatTemplateLimits kSmall = {.max_output_bytes = 100'000,
                                       .max_time = std::chrono::milliseconds(500)};

Result<RenderedPrompt> Render(std::string_view source, ChatTemplateInput input = {},
                              ChatTemplateLimits limits = kSmall) {
  if (input.messages_json.empty()) {
    input.messages_json = R"([{"role": "user", "content": "hi"}])";
  }
  const auto made = ChatTemplate::Create(
      source, {.bos_token = "<s>", .eos_token = "</s>", .control_tokens = {"<s>", "</s>", "<|a|>"}},
      limits);
  if (!made.ok()) {
    return made.status();
  }
  return made.value()->Render(input);
}

std::string Text(std::string_view source, ChatTemplateInput input = {}) {
  const auto rendered = Render(source, std::move(input));
  return rendered.ok() ? rendered->text : "error: " + rendered.status().message();
}

TEST(ChatTemplate, SyntaxErrorNamesItsLine) {
  const auto made = ChatTemplate::Create("a\nb\n{% if %}", {}, kSmall);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(made.status().message().find("line 3"), std::string::npos) << made.status().message();
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

TEST(ChatTemplate, FinalMessageIsLeftOpen) {
  ChatTemplateInput input{
      .messages_json =
          R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}])",
      .add_generation_prompt = false,
      .continue_final_message = true};
  EXPECT_EQ(Text("{% for m in messages %}[{{ m.content }}]</s>{% endfor %}", input), "[a]</s>[b ");
  input.add_generation_prompt = true;
  EXPECT_EQ(Render("{{ messages }}", input).status().code(), StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, ControlTokensOfMessagesArePlainText) {
  const auto rendered =
      Render("<s>{{ messages[0].content }}</s>",
             {.messages_json = R"([{"role": "user", "content": "x</s>y<|a|>"}])"});
  ASSERT_TRUE(rendered.ok()) << rendered.status().message();
  EXPECT_EQ(rendered->text, "<s>x</s>y<|a|></s>");
  ASSERT_EQ(rendered->plain_ranges.size(), 2U);  // neither the first <s> nor the last </s>
  EXPECT_GE(rendered->plain_ranges[0].begin, 4U);
  EXPECT_LE(rendered->plain_ranges[0].end, 8U);
  EXPECT_GE(rendered->plain_ranges[1].begin, 9U);
  EXPECT_LE(rendered->plain_ranges[1].end, 14U);
}

TEST(ChatTemplate, StrftimeNowIsToday) {
  const std::string year = Text("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4U);
  EXPECT_GE(year, "2024");
}

TEST(ChatTemplate, EndlessWorkEndsAtTheTimeLimit) {
  const auto rendered = Render(
      "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}"
      "{% endfor %}");
  EXPECT_EQ(rendered.status().code(), StatusCode::kDeadlineExceeded);
}

// One call into C cannot be interrupted, so each must be refused before it runs. The time limit
// is long: what ends these is their size.
TEST(ChatTemplate, NoExpressionMakesLongOutOfShort) {
  const char* const bombs[] = {
      "{% for a in range(99999) %}xxxxxxxxxx{% endfor %}",
      "{{ 'x' * 100001 }}",
      "{{ [1] * 999999999 }}",
      "{{ 'x' * 1000 * 1000 }}",
      "{{ 9 ** 999 ** 9 }}",
      "{% set n = namespace(x=7) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
      "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor "
      "%}",
      "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor "
      "%}",
      "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
      "{{ n.x }}",
      "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
      "{{ n.x | string | length }}",
      "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
      "{{ n.x | tojson | length }}",
      "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
      "{{ (n.x ~ '') | length }}",
      "{% set x = 'a' * 1000 %}{{ x.replace('a', x) | length }}",
      "{% set x = 'a' * 1000 %}{{ x.replace('a', x).replace('a', x) | length }}",
      "{% set x = 'a' * 1000 %}{{ x | replace('a', x) | length }}",
      "{% set x = 'a' * 1000 %}{{ x.join(x) | length }}",
      "{% set x = 'a' * 1000 %}{{ x | join(x) | length }}",
      "{{ 'a' | indent(999999999, true) | length }}",
      "{{ [1] | batch(999999999, 0) | list | length }}",
      "{{ [1] | tojson(indent=999999999) | length }}",
  };
  for (const char* bomb : bombs) {
    const auto rendered = Render(
        bomb, {}, {.max_output_bytes = 100'000, .max_time = std::chrono::milliseconds(20'000)});
    EXPECT_EQ(rendered.status().code(), StatusCode::kResourceExhausted)
        << bomb << ": " << rendered.status().message();
  }
}

TEST(ChatTemplate, SandboxHasNoWayOut) {
  const char* const escapes[] = {
      "{{ ''.__class__.__mro__[1].__subclasses__() }}",
      "{{ messages.__class__ }}",
      "{{ raise_exception.__globals__ }}",
      "{{ strftime_now.__globals__['sys'] }}",
      "{{ cycler.__init__.__globals__.os.system('true') }}",
      "{{ namespace.__init__.__globals__ }}",
      "{{ (messages | attr('__class__')).__name__ }}",
      "{{ self._TemplateReference__context.environment }}",
      "{{ messages.append(1) }}",
      "{{ messages[0].update({}) }}",
      "{{ '%s' % messages }}",
      "{{ '{0.__class__}'.format(messages) }}",
      "{{ '{x.__class__}'.format_map({'x': 1}) }}",
      "{{ [1] | map('format', 1) | list }}",
      "{% include '/etc/passwd' %}",
      "{% import 'os' as os %}{{ os }}",
      "{{ [[1], [2]] | sum(start=[]) }}",
  };
  for (const char* escape : escapes) {
    const auto rendered = Render(escape);
    // Refused, or undefined and therefore empty.
    EXPECT_TRUE(!rendered.ok() || rendered->text.empty())
        << escape << ": " << (rendered.ok() ? rendered->text : "");
  }
}

TEST(ChatTemplate, OrdinaryWorkIsNotRefused) {
  EXPECT_EQ(Text("{{ 'a-b' | replace('-', '+') }}{{ ['x', 1] | join(', ') }}"), "a+bx, 1");
  EXPECT_EQ(Text("{{ [1, 2.5] | sum }} {{ messages | sum(attribute='n') }}",
                 {.messages_json = R"([{"n": 2}, {"n": 3}])"}),
            "3.5 5");
  EXPECT_EQ(Text("{{ 'a\nb' | indent(2, true) }}"), "  a\n  b");
  EXPECT_EQ(Text("{{ {'b': [1, 'x']} | tojson }}{{ 2 ** 10 }}{{ 'ab' ~ 1 ~ none }}"),
            "{\"b\": [1, \"x\"]}1024ab1None");
  EXPECT_EQ(Text("{{ 'a b'.replace(' ', '_', 1) }}{{ ','.join(['a', 'b']) }}{{ [1] + [2] }}"),
            "a_ba,b[1, 2]");
}

TEST(ChatTemplate, LimitsOfOneTemplateAreNotThoseOfAnother) {
  const auto wide = ChatTemplate::Create("{{ ('x' * 5000) ~ 'y' }}", {}, {});
  const auto narrow = ChatTemplate::Create("{{ ('x' * 50) ~ 'y' }}", {}, {.max_output_bytes = 100});
  ASSERT_TRUE(wide.ok() && narrow.ok());
  EXPECT_TRUE(narrow.value()->Render({.messages_json = "[]"}).ok());
  const auto rendered = wide.value()->Render({.messages_json = "[]"});
  ASSERT_TRUE(rendered.ok()) << rendered.status().message();
  EXPECT_EQ(rendered->text.size(), 5001U);
}

TEST(ChatTemplate, ThreadsShareOneInterpreter) {
  const auto made = ChatTemplate::Create("{{ messages[0].content }}", {}, {});
  ASSERT_TRUE(made.ok());
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&made, t] {
      for (int i = 0; i < 50; ++i) {
        const std::string want = std::to_string(t * 1000 + i);
        const auto rendered =
            made.value()->Render({.messages_json = R"([{"content": ")" + want + R"("}])"});
        ASSERT_TRUE(rendered.ok());
        EXPECT_EQ(rendered->text, want);
      }
    });
  }
}

}  // namespace
}  // namespace thermocline
