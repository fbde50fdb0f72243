// Templates that mean harm. Each must end in an error or do nothing; what ends it, memory or time,
// depends on the machine, so no test asks. Time limits are short, for nothing here is worth
// waiting.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/text/chat_template.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;

constexpr ChatTemplateLimits kShort{.max_time = milliseconds(150)};

ChatTemplateInput Hi() { return {.messages_json = R"([{"role": "user", "content": "hi"}])"}; }

bool IsLimit(StatusCode code) {
  return code == StatusCode::kResourceExhausted || code == StatusCode::kDeadlineExceeded;
}

size_t PeakBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) << 10;
}

// When the chat says "bomb", so that trying the template at load is quick.
std::unique_ptr<ChatTemplate> Armed(const std::string& source) {
  auto made = ChatTemplate::Create(
      "{% if messages[0].content == 'bomb' %}" + source + "{% else %}fine{% endif %}", {}, kShort);
  EXPECT_TRUE(made.ok()) << source << ": " << made.status().message();
  return made.ok() ? std::move(made).value() : nullptr;
}

TEST(ChatTemplateLimits, NoTemplateCostsMoreThanItsLimits) {
  const std::string doubled = "{% set n = namespace(x=X) %}{% for i in range(60) %}{% set n.x = ";
  const auto doubling = [&doubled](const std::string& start, const std::string& step) {
    std::string source = doubled + step + " %}{% endfor %}{{ n.x | length }}";
    return source.replace(source.find("x=X") + 2, 1, start);
  };
  const std::vector<std::string> bombs = {
      "{{ '{:>300000000}'.format('a') | length }}",
      "{{ '{x:>300000000}'.format_map({'x': 'a'}) | length }}",
      "{{ '%300000000d' % 1 }}",
      "{{ '%300000000d' | format(1) }}",
      "{{ 'a'.ljust(300000000) | length }}",
      "{{ 'a' | center(300000000) | length }}",
      "{{ '1'.zfill(300000000) | length }}",
      "{{ ('<' * 60000) | striptags | length }}",
      "{{ ('&' * 9000000) | escape | length }}",
      "{{ ('a ' * 9000000) | title | length }}",
      "{{ ('a.b/' * 3000000) | urlize | length }}",
      "{{ ('a' * 90000000) | wordwrap(1) | length }}",
      "{{ ('a b ' * 9000000) | wordcount }}",
      "{{ 'a' | indent(999999999, true) | length }}",
      "{{ [1] | batch(999999999, 0) | list | length }}",
      "{{ [1] | slice(99999999) | list | length }}",
      "{{ [1] | tojson(indent=999999999) | length }}",
      "{{ range(99999) | list | tojson(indent=100000) | length }}",
      "{{ 'x' * 999999999 }}",
      "{{ [1] * 999999999 }}",
      "{{ (range(99999) | list) * 9999 }}",
      "{{ 9 ** 999 ** 9 }}",
      "{{ (9 ** 99999999) % 7 }}",
      doubling("'ab'", "n.x + n.x"),
      doubling("'ab'", "n.x ~ n.x"),
      doubling("[1]", "n.x + n.x"),
      doubling("'a'", "n.x.replace('a', 'aaaa')"),
      doubling("'a'", "n.x.join(n.x ~ 'bc')"),
      "{% set n = namespace(x=7) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
      ("{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor "
       "%}"
       "{{ n.x }}"),
      ("{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor "
       "%}"
       "{{ n.x | tojson | length }}"),
      ("{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor "
       "%}"
       "{{ n.x | pprint | length }}"),
      ("{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}"
       "{% endfor %}{{ n.x | string | length }}"),
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      ("{% macro f(n) %}{% for i in range(9) %}{{ f(n + 1) if n < 90 }}{% endfor %}{% endmacro %}"
       "{{ f(0) }}"),
      "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
      ("{% set c = cycler(*range(99999)) %}{% for i in range(99999) %}{% for j in range(99999) %}"
       "{% set x = c.next() %}{% endfor %}{% endfor %}"),
      ("{% set x = range(99999) | list %}{% for i in range(99999) %}{% set y = x | sort | reverse "
       "| "
       "map('string') | unique | groupby(0) | list %}{% endfor %}"),
      ("{% set x = range(99999) | list %}{% for i in range(99999) %}{% set y = x | map('upper') | "
       "select('in', x) | list %}{% endfor %}"),
      "{{ (range(99999) | map('string') | join(' ' * 10000)) | length }}",
  };
  std::string joined = "{% if which is undefined %}fine";
  for (size_t i = 0; i < bombs.size(); ++i) {
    joined += "{% elif which == " + std::to_string(i) + " %}" + bombs[i];
  }
  const auto made = ChatTemplate::Create(joined + "{% endif %}", {}, kShort);
  ASSERT_TRUE(made.ok()) << made.status().message();
  const size_t peak_before = PeakBytes();
  for (size_t i = 0; i < bombs.size(); ++i) {
    ChatTemplateInput input = Hi();
    input.kwargs_json = "{\"which\": " + std::to_string(i) + "}";
    EXPECT_FALSE(made.value()->Render(input).ok()) << bombs[i];
    const auto other = made.value()->Render(Hi());
    EXPECT_TRUE(other.ok() && other->text == "fine") << bombs[i] << other.status().message();
  }
  EXPECT_LT(PeakBytes(), peak_before + (size_t{64} << 20));  // this process's
}

TEST(ChatTemplateLimits, LoadingIsBoundedToo) {
  const std::string nested(100'000, '(');
  const std::vector<std::string> sources = {
      "{{ 'x' * 999999999 }}",  // folded while it compiles
      "{{ 9 ** (9 ** 9) }}",
      "{{ ('<' * 60000) | striptags | length }}",
      "{{ " + nested + "1" + std::string(100'000, ')') + " }}",
      ("{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
       "{% endfor %}{% endfor %}{% endfor %}"),
  };
  for (const std::string& source : sources) {
    const auto made = ChatTemplate::Create(source, {}, kShort);
    if (made.ok()) {
      EXPECT_FALSE(made.value()->Render(Hi()).ok()) << source.substr(0, 60);
    } else {
      EXPECT_TRUE(IsLimit(made.status().code()) ||
                  made.status().code() == StatusCode::kInvalidArgument)
          << source.substr(0, 60) << ": " << made.status().message();
    }
  }
}

TEST(ChatTemplateLimits, HostileChatsDoNotStopOthers) {
  const auto made =
      Armed("{% for a in range(9999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
  std::vector<std::jthread> hostile;
  for (int t = 0; t < 2; ++t) {
    hostile.emplace_back([&made] {
      for (int i = 0; i < 3; ++i) {
        const auto rendered =
            made->Render({.messages_json = R"([{"role": "user", "content": "bomb"}])"});
        EXPECT_TRUE(IsLimit(rendered.status().code())) << rendered.status().message();
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    const auto rendered = made->Render(Hi());
    EXPECT_TRUE(rendered.ok()) << rendered.status().message();
  }
}

TEST(ChatTemplateLimits, StoppingEndsWhatRuns) {
  auto created = ChatTemplate::Create(
      ("{% if messages[0].content == 'bomb' %}{% for a in range(9999) %}{% for b in range(99999) %}"
       "{% endfor %}{% endfor %}{% endif %}"),
      {}, {.max_time = milliseconds(600'000)});
  const auto made = std::move(created).value();
  std::jthread caller([&made] {
    const auto rendered =
        made->Render({.messages_json = R"([{"role": "user", "content": "bomb"}])"});
    EXPECT_EQ(rendered.status().code(), StatusCode::kUnavailable);
  });
  made->Stop();
  caller.join();
}

TEST(ChatTemplateLimits, TheSandboxHasNoWayOut) {
  const char* const escapes[] = {
      "{{ ''.__class__.__mro__[1].__subclasses__() }}",
      "{{ messages.__class__ }}",
      "{{ messages[0].content._mask }}",
      "{{ 'x'._mask }}",
      "{{ 'x' | attr('_mask') }}",
      "{{ 'x'['_mask'] }}",
      "{{ ['x'] | map(attribute='_mask') | list | join }}",
      "{{ '{0._mask}'.format('x') }}",
      "{{ 'x'.upper.__globals__ }}",
      "{{ 'x'.upper.__func__ }}",
      "{{ 'x'.replace.__self__._mask }}",
      "{{ raise_exception.__globals__ }}",
      "{{ strftime_now.__globals__['sys'] }}",
      "{{ cycler.__init__.__globals__.os.system('true') }}",
      "{{ namespace.__init__.__globals__ }}",
      "{{ (messages | attr('__class__')).__name__ }}",
      "{{ self._TemplateReference__context.environment }}",
      "{{ messages.append(1) }}",
      "{{ messages[0].update({}) }}",
      "{{ '{0.__class__}'.format(messages) }}",
      "{{ '{x.__class__}'.format_map({'x': 1}) }}",
      "{% include '/etc/passwd' %}",
      "{% import 'os' as os %}{{ os }}",
      "{% extends '/etc/passwd' %}",
      "{{ environment }}{{ literal_0 }}{{ lipsum }}",
  };
  for (const char* escape : escapes) {
    const auto made = ChatTemplate::Create(escape, {}, {});
    ASSERT_TRUE(made.ok()) << escape << made.status().message();
    const auto rendered = made.value()->Render(Hi());
    // Refused, or undefined and therefore empty.
    EXPECT_TRUE(!rendered.ok() || rendered->text.empty())
        << escape << ": " << (rendered.ok() ? rendered->text : "");
  }
}

}  // namespace
}  // namespace thermocline
