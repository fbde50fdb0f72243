// Messages reach each template in the form that it expects.

#include <gtest/gtest.h>

#include <string>

#include "engine/text/chat_template.h"

namespace thermocline {
namespace {

std::string TextOf(std::string_view source, const std::string& messages) {
  const auto made = ChatTemplate::Create(source, {}, {});
  if (!made.ok()) {
    return "error: " + made.status().message();
  }
  const auto rendered =
      made.value()->Render({.messages_json = messages, .add_generation_prompt = false});
  return rendered.ok() ? rendered->text : "error: " + rendered.status().message();
}

constexpr char kHiMessage[] = R"({"role": "user", "content": "hi"})";

std::string Called(const std::string& content, const std::string& arguments) {
  return std::string("[") + kHiMessage + R"(, {"role": "assistant", )" + content +
         R"("tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": )" +
         arguments + R"(}}]}, {"role": "tool", "tool_call_id": "1", "content": "42"}])";
}

constexpr char kAddsText[] =
    "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '<call>' + c.function.name + ' ' + c.function.arguments + '</call>' }}"
    "{% endfor %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}";
constexpr char kItems[] =
    "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }}"
    "{% for k, v in c.function.arguments | items %} {{ k }}={{ v }}{% endfor %};"
    "{% endfor %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}";
constexpr char kToJson[] =
    "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}{% else %}[{{ m.content }}]{% endif %}"
    "{% endfor %}";
constexpr char kEither[] =
    "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson "
    "}}"
    "{% endfor %}{{ m.tool_calls[0].function.name }}{% else %}"
    "[{{ m.content }}]{% endif %}{% endfor %}";

TEST(ChatForms, ArgumentsAreTextOrAnObjectAsTheTemplateUsesThem) {
  const std::string text = R"("{\"a\": 1}")";
  const std::string object = R"({"a": 1})";
  for (const std::string& arguments : {text, object}) {
    const std::string messages = Called(R"("content": null, )", arguments);
    EXPECT_EQ(TextOf(kAddsText, messages), R"([hi]<call>f {"a": 1}</call>[42])");
    EXPECT_EQ(TextOf(kItems, messages), "[hi]f a=1;[42]");
    EXPECT_EQ(TextOf(kToJson, messages), R"([hi]f {"a": 1}[42])");
    EXPECT_EQ(TextOf(kEither, messages), R"([hi]{"a": 1}f[42])");
  }
}

TEST(ChatForms, ArgumentsThatAreNoObjectAreNotTouched) {
  EXPECT_EQ(TextOf(kAddsText, Called("", R"("{\"a\":1,  \"a\":2}")")),
            R"([hi]<call>f {"a":1,  "a":2}</call>[42])");
  EXPECT_EQ(TextOf(kToJson, Called("", R"("{broken")")), R"([hi]f "{broken"[42])");
  EXPECT_EQ(TextOf(kToJson, Called("", R"("")")), R"([hi]f {}[42])");
  EXPECT_EQ(TextOf(kToJson, Called("", "null")), R"([hi]f {}[42])");
  EXPECT_EQ(TextOf(kAddsText, Called("", "null")), R"([hi]<call>f {}</call>[42])");
}

TEST(ChatForms, MissingContentIsSpelledAsTheTemplateExpects) {
  constexpr const char* kIfNull =
      "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}"
      "{% for c in m.tool_calls %}<{{ c.function.name }}{{ c.function.arguments | tojson }}>"
      "{% endfor %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}";
  constexpr const char* kAdds =
      "{% for m in messages %}{{ '[' + m.content + ']' }}{% for c in m.tool_calls or [] %}"
      "<{{ c.function.name }}{{ c.function.arguments | tojson }}>{% endfor %}{% endfor %}";
  constexpr const char* kIfDefined =
      "{% for m in messages %}{% if 'content' in m %}[{{ m.content }}]{% else %}"
      "{% for c in m.tool_calls %}<{{ c.function.name }}{{ c.function.arguments | tojson }}>"
      "{% endfor %}{% endif %}{% endfor %}";
  for (const char* content : {R"("content": null, )", R"("content": "", )", ""}) {
    const std::string messages = Called(content, "{}");
    EXPECT_EQ(TextOf(kIfNull, messages), "[hi]<f{}>[42]") << content;
    EXPECT_EQ(TextOf(kAdds, messages), "[hi][]<f{}>[42]") << content;
    EXPECT_EQ(TextOf(kIfDefined, messages), "[hi]<f{}>[42]") << content;
  }
  EXPECT_EQ(TextOf(kAdds, Called(R"("content": "so", )", "{}")), "[hi][so]<f{}>[42]");
  EXPECT_EQ(TextOf(kAdds, R"([{"role": "assistant", "content": null}])"), "[]");
}

TEST(ChatForms, DeveloperIsASystemMessageWhereTheRoleIsUnknown) {
  const std::string messages =
      std::string(R"([{"role": "developer", "content": "Be brief."}, )") + kHiMessage + "]";
  EXPECT_EQ(TextOf("{% if messages[0].role != 'system' %}default;{% endif %}"
                   "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}",
                   messages),
            "system:Be brief.;user:hi;");
  EXPECT_EQ(
      TextOf("{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant', 'tool'] %}"
             "{{ raise_exception('role') }}{% endif %}{{ m.role }}:{{ m.content }};{% endfor %}",
             messages),
      "system:Be brief.;user:hi;");
  EXPECT_EQ(TextOf("{% for m in messages %}{% if m.role in ['user', 'system'] %}{{ m.role }}:"
                   "{{ m.content }};{% endif %}{% endfor %}",
                   messages),
            "system:Be brief.;user:hi;");
  EXPECT_EQ(TextOf("{% for m in messages %}{% if m.role == 'developer' %}# {% endif %}{{ m.role }}:"
                   "{{ m.content }};{% endfor %}",
                   messages),
            "# developer:Be brief.;user:hi;");
}

TEST(ChatForms, SystemTextJoinsTheUsersWhereTheRoleIsUnknown) {
  constexpr const char* kRaises =
      "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
      "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }}:{{ m.content }};"
      "{% endfor %}";
  constexpr const char* kDrops =
      "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}";
  for (const char* role : {"system", "developer"}) {
    const std::string messages =
        std::string(R"([{"role": ")") + role + R"(", "content": "Be brief."}, )" + kHiMessage + "]";
    EXPECT_EQ(TextOf(kRaises, messages), "user:Be brief.\n\nhi;");
    EXPECT_EQ(TextOf(kDrops, messages), "user:Be brief.\n\nhi;");
  }
}

TEST(ChatForms, ContentIsTextOrPartsAsTheTemplateReadsIt) {
  const std::string parts =
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])";
  const std::string text = std::string("[") + kHiMessage + "]";
  constexpr const char* kText = "{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}";
  constexpr const char* kParts =
      "{% for m in messages %}{% for p in m.content if p.type == 'text' %}[{{ p.text }}]{% endfor "
      "%}"
      "{% endfor %}";
  EXPECT_EQ(TextOf(kText, parts), "[a\nb]");
  EXPECT_EQ(TextOf(kText, text), "[hi]");
  EXPECT_EQ(TextOf(kParts, parts), "[a][b]");
  EXPECT_EQ(TextOf(kParts, text), "[hi]");
}

TEST(ChatForms, CallsAndResultsAreShownWhereTheTemplateKnowsNone) {
  constexpr const char* kKnowsThree =
      "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
      "{{ raise_exception('role') }}{% endif %}{{ m.role }}:{{ m.content }};{% endfor %}";
  const std::string shown = TextOf(kKnowsThree, Called(R"("content": null, )", R"("{\"a\": 1}")"));
  EXPECT_EQ(shown, R"(user:hi;assistant:{"tool_calls": [{"name": "f", "arguments": {"a": 1}}]};)"
                   R"(user:{"tool_response": {"tool_call_id": "1", "content": "42"}};)");
}

}  // namespace
}  // namespace thermocline
