#include "server/http/json.h"

#include <gtest/gtest.h>

#include <string>

namespace thermocline {
namespace {

std::string Repeated(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) {
    result += text;
  }
  return result;
}

std::string ErrorOf(const std::string& text) {
  const Result<Json> parsed = ParseJson(text);
  return parsed.ok() ? "parsed" : parsed.status().message();
}

TEST(Json, RoundTripKeepsValuesAndOrder) {
  const std::string text =
      R"({"z":[1,-2,1.5,true,null,"a\u00e9\ud83d\ude00"],"a":{},"m":{"b":[],"a":18446744073709551615}})";
  const Result<Json> parsed = ParseJson(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_EQ(DumpJson(*parsed),
            "{\"z\":[1,-2,1.5,true,null,\"a\u00e9\U0001F600\"],\"a\":{},\"m\":{\"b\":[],\"a\":"
            "18446744073709551615}}");
}

TEST(Json, DepthOf64IsTheLast) {
  EXPECT_TRUE(ParseJson(Repeated("[", 64) + Repeated("]", 64)).ok());
  EXPECT_NE(ErrorOf(Repeated("[", 65) + Repeated("]", 65)).find("deeper than 64"),
            std::string::npos);
  EXPECT_TRUE(ParseJson(Repeated("{\"a\":", 64) + "1" + Repeated("}", 64)).ok());
  EXPECT_NE(ErrorOf(Repeated("{\"a\":", 65) + "1" + Repeated("}", 65)).find("deeper"),
            std::string::npos);
}

TEST(Json, AMillionOpenBracketsCostNoStack) {
  EXPECT_NE(ErrorOf(Repeated("[", 1'000'000)).find("deeper"), std::string::npos);
}

TEST(Json, DuplicateKeysAreRefusedAtAnyLevel) {
  EXPECT_NE(ErrorOf(R"({"a":1,"a":2})").find("\"a\" occurs twice"), std::string::npos);
  EXPECT_NE(ErrorOf(R"([{"b":{"c":1,"d":2,"c":3}}])").find("\"c\" occurs twice"),
            std::string::npos);
  EXPECT_NE(ErrorOf(R"({"a":1,"\u0061":2})").find("twice"), std::string::npos);
  EXPECT_TRUE(ParseJson(R"({"a":{"a":1},"b":{"a":1}})").ok());
}

TEST(Json, TooManyValuesAreRefused) {
  const std::string text = "[" + Repeated("0,", 1 << 20) + "0]";
  EXPECT_NE(ErrorOf(text).find("more than 1048576 values"), std::string::npos);
}

TEST(Json, ManyKeysAreReadInLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) {
    text += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":0";
  }
  const Result<Json> parsed = ParseJson(text + "}");  // quadratic would be minutes
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->size(), 200'000U);
}

class MalformedJson : public testing::TestWithParam<std::string> {};

TEST_P(MalformedJson, IsRefusedWithAPrintableReason) {
  const Result<Json> parsed = ParseJson(GetParam());
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  for (const char c : parsed.status().message()) {
    EXPECT_TRUE(c >= ' ' && c <= '~') << parsed.status().message();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Texts, MalformedJson,
    testing::Values("", " ", "{", "[1,]", "{\"a\":1,}", "{a:1}", "'a'", "[1] 2", "nul", "01", "+1",
                    "1.", ".5", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "\"\x01\"",
                    "\"a\tb\"", "\"\\x41\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"",
                    "\"\\ud83d", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
                    "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "\"abc", "{\"\xff\":1}", "\xff\xfe",
                    std::string("[1,\0 2]", 7), std::string("1\0", 2),
                    std::string("{}\0{\"a\":1}", 10), std::string("\0", 1),
                    std::string("\"a\0b\"", 5), "{}x", "{}\n{}", "{} // note", "[1]]", "1 2",
                    "\xef\xbb\xbf{}x", "{\"a\" 1}", "{1:2}", "[\"a\" \"b\"]"));

TEST(Json, DumpReplacesMalformedUtf8) { EXPECT_EQ(DumpJson(Json("a\xff")), "\"a\xef\xbf\xbd\""); }

}  // namespace
}  // namespace thermocline
