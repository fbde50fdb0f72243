#include "engine/text/detokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/text/utf8.h"
#include "tests/engine/text/test_vocabulary.h"

namespace thermocline {
namespace {

class StreamingDetokenizerTest : public testing::Test {
 protected:
  // What each byte adds to the text, one call after another, then Flush.
  std::vector<std::string> Stream(std::string_view bytes) {
    StreamingDetokenizer detokenizer(*tokenizer_, false);
    std::vector<std::string> parts;
    for (char byte : bytes) {
      parts.push_back(detokenizer.Add(static_cast<uint8_t>(byte)));
    }
    parts.push_back(detokenizer.Flush());
    return parts;
  }

  // The text behind so many code points.
  static std::string_view From(std::string_view text, size_t num_code_points) {
    for (; num_code_points > 0; --num_code_points) {
      text.remove_prefix(DecodeUtf8(text).num_bytes);
    }
    return text;
  }

  std::unique_ptr<Tokenizer> tokenizer_ = *LoadTokenizer(TestVocabulary());
};

using Parts = std::vector<std::string>;
constexpr char kReplacement[] = "\xef\xbf\xbd";

TEST_F(StreamingDetokenizerTest, HoldsACharacterBackUntilItIsWhole) {
  EXPECT_EQ(Stream("a\xf0\x9f\x99\x82"), (Parts{"a", "", "", "", "\xf0\x9f\x99\x82", ""}));
}

TEST_F(StreamingDetokenizerTest, ReplacesACharacterThatIsLeftUnfinished) {
  EXPECT_EQ(Stream("\xf0\x9f\x99"), (Parts{"", "", "", kReplacement}));
  EXPECT_EQ(Stream("\xe4\xb8x"), (Parts{"", "", std::string(kReplacement) + "x", ""}));
}

TEST_F(StreamingDetokenizerTest, ReplacesBytesThatNothingCanMakeACharacterAtOnce) {
  EXPECT_EQ(Stream("\xff\x80"), (Parts{kReplacement, kReplacement, ""}));
  // A surrogate, an overlong form, past the last plane: the second byte already rules it out.
  for (std::string_view bytes : {"\xed\xa0", "\xe0\x80", "\xf0\x80", "\xf4\x90"}) {
    EXPECT_EQ(Stream(bytes), (Parts{"", std::string(kReplacement) + kReplacement, ""}));
  }
}

TEST_F(StreamingDetokenizerTest, HiddenTokensDoNotBreakACharacter) {
  StreamingDetokenizer detokenizer(*tokenizer_, false);
  EXPECT_EQ(detokenizer.Add(0xc3), "");
  EXPECT_EQ(detokenizer.Add(264), "");  // <|im_start|>
  EXPECT_EQ(detokenizer.Add(0xa9), "\xc3\xa9");
}

TEST_F(StreamingDetokenizerTest, ATokenBeginsAtTheCharacterOfItsFirstByte) {
  const auto begins = [this](std::string_view bytes) {
    StreamingDetokenizer detokenizer(*tokenizer_, false);
    std::vector<size_t> result;
    for (char byte : bytes) {
      (void)detokenizer.Add(static_cast<uint8_t>(byte));
      result.push_back(detokenizer.last_begin());
    }
    return result;
  };
  using Begins = std::vector<size_t>;
  EXPECT_EQ(begins("abc"), (Begins{0, 1, 2}));
  EXPECT_EQ(begins("a\xf0\x9f\x99\x82z"), (Begins{0, 1, 1, 1, 1, 2}));
  EXPECT_EQ(begins("\xff\x80z"), (Begins{0, 1, 2}));  // one U+FFFD each
  EXPECT_EQ(begins("\xe4\xb8x"), (Begins{0, 0, 1}));  // one for both
  EXPECT_EQ(begins("\xe4\xe4\xb8\xad."), (Begins{0, 1, 1, 1, 2}));
  EXPECT_EQ(begins("\xed\xa0z"), (Begins{0, 1, 2}));  // the second is none of the first's
}

TEST_F(StreamingDetokenizerTest, AHiddenTokenHasNoWidth) {
  StreamingDetokenizer detokenizer(*tokenizer_, false);
  std::vector<size_t> begins;
  for (const TokenId token : std::vector<TokenId>{264, 'a', 264, 264, 'b', 264}) {
    (void)detokenizer.Add(token);
    begins.push_back(detokenizer.last_begin());
  }
  EXPECT_EQ(begins, (std::vector<size_t>{0, 0, 1, 1, 1, 2}));
}

TEST_F(StreamingDetokenizerTest, FlushLeavesNothingBehind) {
  StreamingDetokenizer detokenizer(*tokenizer_, false);
  EXPECT_EQ(detokenizer.Add(0xc3), "");
  EXPECT_EQ(detokenizer.Flush(), kReplacement);
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(detokenizer.Add('a'), "a");
}

TEST_F(StreamingDetokenizerTest, AnyTokensGiveValidPiecesThatJoinToTheWhole) {
  std::mt19937 random(7);
  constexpr TokenId kLeads[] = {0xc3, 0xa9, 0xe4, 0xb8, 0xad, 0xf0, 0x9f, 0x99, 0x82};
  for (int i = 0; i < 5000; ++i) {
    std::vector<TokenId> ids(random() % 30);
    for (TokenId& id : ids) {
      id = random() % 2 == 0 ? kLeads[random() % std::size(kLeads)]
                             : static_cast<TokenId>(random() % 268);
    }
    StreamingDetokenizer detokenizer(*tokenizer_, true);
    std::string joined;
    std::vector<size_t> begins;
    for (TokenId id : ids) {
      const std::string part = detokenizer.Add(id);
      ASSERT_EQ(ValidUtf8Prefix(part), part.size());
      joined += part;
      begins.push_back(detokenizer.last_begin());
    }
    joined += detokenizer.Flush();
    ASSERT_EQ(detokenizer.num_given(), NumCodePoints(joined));
    ASSERT_TRUE(std::is_sorted(begins.begin(), begins.end()));
    for (size_t k = 0; k < ids.size(); ++k) {
      const std::string_view text = tokenizer_->TokenBytes(ids[k], true);
      if (!text.empty() && ValidUtf8Prefix(text) == text.size()) {
        ASSERT_TRUE(From(joined, begins[k]).starts_with(text));
      }
    }
    // The same from all bytes at once.
    std::string bytes;
    for (TokenId id : ids) {
      bytes += tokenizer_->TokenBytes(id, true);
    }
    std::string expected;
    for (std::string_view rest = bytes; !rest.empty();) {
      const Utf8Unit unit = DecodeUtf8(rest);
      expected += unit.kind == Utf8Kind::kValid ? rest.substr(0, unit.num_bytes) : kReplacement;
      rest.remove_prefix(unit.num_bytes);
    }
    ASSERT_EQ(joined, expected);
    ASSERT_EQ(tokenizer_->Decode(ids, true), expected);
  }
}

}  // namespace
}  // namespace thermocline
