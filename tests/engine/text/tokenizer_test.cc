#include "engine/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "tests/engine/text/test_vocabulary.h"

namespace thermocline {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr TokenId kImStart = 264;
constexpr TokenId kImEnd = 265;
constexpr TokenId kTool = 266;
constexpr TokenId kTools = 267;

std::unique_ptr<Tokenizer> Load(const MemoryCheckpoint& checkpoint, const std::string& pre = "") {
  auto tokenizer = LoadTokenizer(checkpoint, {.pre_tokenizer = pre});
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return *std::move(tokenizer);
}

std::vector<TokenId> Bytes(std::string_view text) {
  std::vector<TokenId> ids;
  for (char byte : text) {
    ids.push_back(static_cast<uint8_t>(byte));
  }
  return ids;
}

std::string RandomBytes(std::mt19937& random, size_t max_size) {
  // Half of them from what has a meaning, so that sequences are broken in every place.
  constexpr std::string_view kPieces[] = {
      "hello",      " the", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x99\x82",
      "<|im_end|>", "  \n", "12",       "\xe2\x82",     "\xf0\x9f"};
  std::string bytes;
  const size_t size = random() % (max_size + 1);
  while (bytes.size() < size) {
    if (random() % 2 == 0) {
      bytes.push_back(static_cast<char>(random() % 256));
    } else {
      bytes += kPieces[random() % std::size(kPieces)];
    }
  }
  return bytes;
}

std::string JoinBytes(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  std::string bytes;
  for (TokenId id : ids) {
    bytes += tokenizer.TokenBytes(id, /*show_special=*/true);
  }
  return bytes;
}

TEST(Tokenizer, MergesByRankWithinWords) {
  const auto tokenizer = Load(TestVocabulary());
  EXPECT_THAT(tokenizer->Encode("hello the", SpecialTokens::kPlain), ElementsAre(259, 261));
  EXPECT_THAT(tokenizer->Encode("hel lo", SpecialTokens::kPlain),
              ElementsAre(256, 'l', ' ', 'l', 'o'));
  EXPECT_THAT(tokenizer->Encode("", SpecialTokens::kPlain), IsEmpty());
}

TEST(Tokenizer, OfEqualPairsTheLeftmostIsMerged) {
  const auto tokenizer = Load(TestVocabulary());
  EXPECT_THAT(tokenizer->Encode("lll", SpecialTokens::kPlain), ElementsAre(257, 'l'));
}

TEST(Tokenizer, LongWordsAreMergedAsShortOnesAre) {
  const auto tokenizer = Load(TestVocabulary());
  for (size_t size = 1; size <= 200; ++size) {
    const auto ids = tokenizer->Encode(std::string(size, 'a'), SpecialTokens::kPlain);
    std::vector<TokenId> expected(size / 4, 263);
    if (size % 4 >= 2) {
      expected.push_back(262);
    }
    if (size % 2 == 1) {
      expected.push_back('a');
    }
    EXPECT_EQ(ids, expected) << size;
  }
}

TEST(Tokenizer, ControlTokensInPlainTextAreText) {
  const auto tokenizer = Load(TestVocabulary());
  EXPECT_EQ(tokenizer->Encode("<|im_end|>", SpecialTokens::kPlain), Bytes("<|im_end|>"));
  EXPECT_THAT(tokenizer->Encode("<|im_end|>", SpecialTokens::kParse), ElementsAre(kImEnd));
}

TEST(Tokenizer, UserDefinedTokensAreAlwaysFoundTheLongestFirst) {
  const auto tokenizer = Load(TestVocabulary());
  EXPECT_THAT(tokenizer->Encode("<tool><tool>s", SpecialTokens::kPlain),
              ElementsAre(kTool, kTools));
  const ByteRange all{0, 13};
  EXPECT_THAT(tokenizer->Encode("<tool><tool>s", SpecialTokens::kParse, {&all, 1}),
              ElementsAre(kTool, kTools));
}

TEST(Tokenizer, ControlTokenThatTouchesAPlainRangeStaysText) {
  const auto tokenizer = Load(TestVocabulary());
  const std::string_view text = "<|im_end|>";
  const auto encode = [&](ByteRange range) {
    return tokenizer->Encode(text, SpecialTokens::kParse, {&range, 1});
  };
  EXPECT_EQ(encode({0, 10}), Bytes(text));
  EXPECT_EQ(encode({0, 1}), Bytes(text));
  EXPECT_EQ(encode({9, 10}), Bytes(text));
  EXPECT_EQ(encode({4, 5}), Bytes(text));
  EXPECT_THAT(encode({0, 0}), ElementsAre(kImEnd));    // an empty range holds no byte
  EXPECT_THAT(encode({10, 11}), ElementsAre(kImEnd));  // beside it
}

TEST(Tokenizer, EachOfManyPlainRangesCounts) {
  const auto tokenizer = Load(TestVocabulary());
  const std::string text = "<|im_start|><|im_start|>x<|im_end|>";
  const ByteRange ranges[] = {{12, 24}, {24, 25}};
  std::vector<TokenId> expected{kImStart};
  for (TokenId id : Bytes("<|im_start|>x")) {
    expected.push_back(id);
  }
  expected.push_back(kImEnd);
  EXPECT_EQ(tokenizer->Encode(text, SpecialTokens::kParse, ranges), expected);
}

TEST(Tokenizer, MalformedBytesAreKeptAndDoNotMerge) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  AddToken(checkpoint, "ÿÿ", 1);  // bytes ff ff
  checkpoint.Get<std::vector<std::string>>("tokenizer.ggml.merges").push_back("ÿ ÿ");
  const auto tokenizer = Load(checkpoint);
  EXPECT_THAT(tokenizer->Encode("\xff\xffhello\xe2\x82", SpecialTokens::kPlain),
              ElementsAre(0xff, 0xff, 259, 0xe2, 0x82));
}

TEST(Tokenizer, RandomBytesSurviveTheRoundTrip) {
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe"}) {
    const auto tokenizer = Load(TestVocabulary(), pre);
    std::mt19937 random(1);
    for (int i = 0; i < 3000; ++i) {
      const std::string bytes = RandomBytes(random, 80);
      const auto special = i % 2 == 0 ? SpecialTokens::kPlain : SpecialTokens::kParse;
      ASSERT_EQ(JoinBytes(*tokenizer, tokenizer->Encode(bytes, special)), bytes) << pre;
    }
  }
}

TEST(Tokenizer, TheLeastNumberOfTokensIsNeverMoreThanThereAre) {
  std::mt19937 random(3);
  for (const char* pre : {"", "qwen2"}) {  // with and without composing
    const auto tokenizer = Load(TestVocabulary(), pre);
    for (int i = 0; i < 300; ++i) {
      const std::string text = RandomBytes(random, 200);
      EXPECT_LE(tokenizer->MinTokens(text), tokenizer->Encode(text, SpecialTokens::kParse).size());
    }
    for (const char* shrinking : {"\u212a", "\u1fbe\u0308\u0301", "\u1112\u1161\u11ab"}) {
      std::string text;
      for (int i = 0; i < 100; ++i) {
        text += shrinking;
      }
      EXPECT_LE(tokenizer->MinTokens(text), tokenizer->Encode(text, SpecialTokens::kPlain).size());
    }
    EXPECT_EQ(tokenizer->MinTokens(""), 0U);
    // <|im_start|>, of 12 bytes, is among the longest.
    EXPECT_GE(tokenizer->MinTokens(std::string(12'000, 'a')), 12'000U / 4 / 20);
  }
}

TEST(Tokenizer, ByteWithoutATokenFallsBackToItsByteTokenOrIsLeftOut) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  checkpoint.Get<std::vector<std::string>>("tokenizer.ggml.tokens")[4] = "no longer byte 4";
  EXPECT_THAT(Load(checkpoint)->Encode("x\x04y", SpecialTokens::kPlain), ElementsAre('x', 'y'));
  const auto id = static_cast<TokenId>(AddToken(checkpoint, "<0x04>", 6));
  const auto tokenizer = Load(checkpoint);
  EXPECT_THAT(tokenizer->Encode("x\x04y", SpecialTokens::kPlain), ElementsAre('x', id, 'y'));
  EXPECT_EQ(tokenizer->TokenBytes(id, false), "\x04");
}

TEST(Tokenizer, IgnoredMergesMakeAWordThatIsATokenThatToken) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  const auto id = static_cast<TokenId>(AddToken(checkpoint, "world", 1));
  AddToken(checkpoint, "user", 3);  // a word too, but a control token: never from text
  const auto llama = Load(checkpoint, "llama-bpe");
  EXPECT_THAT(llama->Encode("world", SpecialTokens::kPlain), ElementsAre(id));
  EXPECT_EQ(llama->Encode("user", SpecialTokens::kPlain), Bytes("user"));
  EXPECT_EQ(Load(checkpoint)->Encode("world", SpecialTokens::kPlain), Bytes("world"));
}

TEST(Tokenizer, SpecialTokensAreShownOnlyOnRequest) {
  const auto tokenizer = Load(TestVocabulary());
  const std::vector<TokenId> ids{kImStart, 259, kTool, kImEnd};
  EXPECT_EQ(tokenizer->Decode(ids, true), "<|im_start|>hello<tool><|im_end|>");
  EXPECT_EQ(tokenizer->Decode(ids, false), "hello<tool>");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreNothing) {
  const auto tokenizer = Load(TestVocabulary());
  for (TokenId id : {-1, tokenizer->vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->TokenBytes(id, true), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_FALSE(tokenizer->IsEndOfGeneration(id));
  }
}

TEST(Tokenizer, AnswersEndAtEosAndAtTheKnownControlTokens) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  const auto end_of_text = static_cast<TokenId>(AddToken(checkpoint, "<|endoftext|>", 3));
  const auto not_control = static_cast<TokenId>(AddToken(checkpoint, "<|eot_id|>", 1));
  checkpoint.Set("tokenizer.ggml.eot_token_id", int64_t{7});
  const auto tokenizer = Load(checkpoint);
  for (TokenId id : {0, 7, kImEnd, end_of_text}) {
    EXPECT_TRUE(tokenizer->IsEndOfGeneration(id)) << id;
  }
  for (TokenId id : {1, kImStart, not_control}) {
    EXPECT_FALSE(tokenizer->IsEndOfGeneration(id)) << id;
  }
}

TEST(Tokenizer, BosIsAddedAsTheCheckpointSaysElseAsTheStyleDoes) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  EXPECT_EQ(Load(checkpoint)->bos(), kImStart);
  EXPECT_FALSE(Load(checkpoint)->adds_bos());
  EXPECT_TRUE(Load(checkpoint, "llama-bpe")->adds_bos());
  checkpoint.Set("tokenizer.ggml.add_bos_token", false);
  EXPECT_FALSE(Load(checkpoint, "llama-bpe")->adds_bos());
  checkpoint.Set("tokenizer.ggml.add_bos_token", true);
  EXPECT_TRUE(Load(checkpoint)->adds_bos());
}

TEST(Tokenizer, ThreadsMayShareOne) {
  const auto tokenizer = Load(TestVocabulary(), "qwen2");
  const std::string text = "hello the \xe4\xb8\xad e\xcc\x81 <|im_end|> hello";
  const auto expected = tokenizer->Encode(text, SpecialTokens::kParse);
  std::vector<std::jthread> threads;
  std::vector<int> equal(4, 0);
  for (int& count : equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        count += tokenizer->Encode(text, SpecialTokens::kParse) == expected;
      }
    });
  }
  threads.clear();
  EXPECT_THAT(equal, testing::Each(200));
}

// Grew time with the square of the length, this would take hours.
TEST(Tokenizer, LongRunsOfTheSameAreEncodedInBoundedTime) {
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const auto tokenizer = Load(TestVocabulary(), pre);
    for (const char* piece :
         {"a", " ", "\n", "=", "1", " \n", "\xe2\x80\x83", "\xff", "<", "\xcc\x81\xcc\xa3"}) {
      std::string text;
      while (text.size() < (size_t{1} << 19)) {
        text += piece;
      }
      const auto ids = tokenizer->Encode(text, SpecialTokens::kParse);
      EXPECT_EQ(JoinBytes(*tokenizer, ids).size(), text.size()) << pre << piece;
    }
  }
}

struct BadVocabulary {
  const char* name;
  const char* message;
  std::function<void(MemoryCheckpoint&)> spoil;
};

using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;

class BadVocabularyTest : public testing::TestWithParam<BadVocabulary> {};

TEST_P(BadVocabularyTest, IsRefusedByTheNameOfTheField) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  GetParam().spoil(checkpoint);
  const auto tokenizer = LoadTokenizer(checkpoint);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(tokenizer.status().message(), HasSubstr(GetParam().message));
}

constexpr const char* kTokensKey = "tokenizer.ggml.tokens";
constexpr const char* kTypesKey = "tokenizer.ggml.token_type";
constexpr const char* kMerges = "tokenizer.ggml.merges";

std::function<void(MemoryCheckpoint&)> AddMerge(const std::string& line) {
  return [line](MemoryCheckpoint& c) { c.Get<Strings>(kMerges).push_back(line); };
}

const BadVocabulary kBadVocabularies[] = {
    {"NoModel", "tokenizer.ggml.model", [](auto& c) { c.Remove("tokenizer.ggml.model"); }},
    {"NoTokens", kTokensKey, [](auto& c) { c.Remove(kTokensKey); }},
    {"EmptyTokens", "0 tokens", [](auto& c) { c.Set(kTokensKey, Strings()); }},
    {"TokensOfAnotherType", kTokensKey, [](auto& c) { c.Set(kTokensKey, int64_t{1}); }},
    {"TypesOfAnotherType", kTypesKey, [](auto& c) { c.Set(kTypesKey, std::string("normal")); }},
    {"AddEosOfAnotherType", "add_eos_token",
     [](auto& c) { c.Set("tokenizer.ggml.add_eos_token", int64_t{1}); }},
    {"TooFewTypes", kTypesKey, [](auto& c) { c.template Get<Ints>(kTypesKey).pop_back(); }},
    {"TypeZero", "token_type[3]: 0", [](auto& c) { c.template Get<Ints>(kTypesKey)[3] = 0; }},
    {"TypeSeven", "token_type[3]: 7", [](auto& c) { c.template Get<Ints>(kTypesKey)[3] = 7; }},
    {"NoMerges", kMerges, [](auto& c) { c.Remove(kMerges); }},
    {"DuplicateToken", "tokens[66]",
     [](auto& c) { c.template Get<Strings>(kTokensKey)[66] = "A"; }},
    {"TokenNotUtf8", "not UTF-8",
     [](auto& c) { c.template Get<Strings>(kTokensKey)[66] = "\xff"; }},
    {"HugeToken", "tokens[66]: 70000 bytes",
     [](auto& c) { c.template Get<Strings>(kTokensKey)[66] = std::string(70000, 'x'); }},
    {"ByteTokenNotNamedSo", "<0xXX>", [](auto& c) { c.template Get<Ints>(kTypesKey)[66] = 6; }},
    {"MergeOfOne", "merges[8]", AddMerge("hello")},
    {"MergeOfThree", "merges[8]", AddMerge("h e l")},
    {"MergeOfNothing", "merges[8]", AddMerge("")},
    {"MergeWithoutLeft", "merges[8]", AddMerge(" e")},
    {"MergeWithoutRight", "merges[8]", AddMerge("h ")},
    {"MergeOfUnknown", "\"xyz\" is not", AddMerge("xyz h")},
    {"MergeIntoUnknown", "\"zz\" is not", AddMerge("z z")},
    {"MergeTwice", "listed twice", AddMerge("h e")},
    {"MergeIntoControl", "\"eos\" is not",
     [](auto& c) {
       AddToken(c, "os", 1);
       AddToken(c, "eos", 3);
       AddMerge("e os")(c);
     }},
    {"BosOutside", "bos_token_id: 268",
     [](auto& c) { c.Set("tokenizer.ggml.bos_token_id", int64_t{268}); }},
    {"EosNegative", "eos_token_id: -1",
     [](auto& c) { c.Set("tokenizer.ggml.eos_token_id", int64_t{-1}); }},
    {"EosOfAnotherType", "eos_token_id",
     [](auto& c) { c.Set("tokenizer.ggml.eos_token_id", std::string("x")); }},
    {"AddBosOfAnotherType", "add_bos_token",
     [](auto& c) { c.Set("tokenizer.ggml.add_bos_token", int64_t{1}); }},
    {"AddBosWithoutBos", "bos_token_id",
     [](auto& c) {
       c.Remove("tokenizer.ggml.bos_token_id");
       c.Set("tokenizer.ggml.add_bos_token", true);
     }},
};

INSTANTIATE_TEST_SUITE_P(All, BadVocabularyTest, testing::ValuesIn(kBadVocabularies),
                         [](const auto& test) { return test.param.name; });

TEST(Tokenizer, OtherModelsAndPreTokenizersAreUnimplementedByName) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  checkpoint.Set("tokenizer.ggml.pre", std::string("tekken"));
  const auto other_pre = LoadTokenizer(checkpoint);
  ASSERT_FALSE(other_pre.ok());
  EXPECT_EQ(other_pre.status().code(), StatusCode::kUnimplemented);
  EXPECT_THAT(other_pre.status().message(), HasSubstr("\"tekken\""));
  checkpoint.Set("tokenizer.ggml.model", std::string("llama"));
  const auto other_model = LoadTokenizer(checkpoint);
  ASSERT_FALSE(other_model.ok());
  EXPECT_EQ(other_model.status().code(), StatusCode::kUnimplemented);
  EXPECT_THAT(other_model.status().message(), HasSubstr("\"llama\""));
}

TEST(Tokenizer, WithoutTypesTokensAreNormalButForTheMarksOfTexts) {
  MemoryCheckpoint checkpoint = TestVocabulary();  // <|im_start|> is bos, token 0 is eos
  checkpoint.Remove("tokenizer.ggml.token_type");
  const auto tokenizer = Load(checkpoint);
  EXPECT_THAT(tokenizer->Encode("hello the", SpecialTokens::kParse), ElementsAre(259, 261));
  EXPECT_THAT(tokenizer->Encode("<|im_start|>he<|im_end|>", SpecialTokens::kParse),
              ElementsAre(kImStart, 256, kImEnd));
  for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
    EXPECT_EQ(tokenizer->IsSpecial(id), id == kImStart || id == kImEnd) << id;
    EXPECT_EQ(tokenizer->IsEndOfGeneration(id), id == 0 || id == kImEnd) << id;
  }
}

TEST(Tokenizer, WhatWouldChangeTheTokensAndIsNotDoneIsUnimplementedByName) {
  for (const char* name :
       {"add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"}) {
    const std::string key = std::string("tokenizer.ggml.") + name;
    MemoryCheckpoint checkpoint = TestVocabulary();
    checkpoint.Set(key, false);
    EXPECT_TRUE(LoadTokenizer(checkpoint).ok()) << key;
    checkpoint.Set(key, true);
    const auto refused = LoadTokenizer(checkpoint);
    EXPECT_EQ(refused.status().code(), StatusCode::kUnimplemented) << key;
    EXPECT_THAT(refused.status().message(), HasSubstr(key));
  }
  MemoryCheckpoint checkpoint = TestVocabulary();
  checkpoint.Set("tokenizer.ggml.precompiled_charsmap", Ints());
  EXPECT_TRUE(LoadTokenizer(checkpoint).ok());
  checkpoint.Set("tokenizer.ggml.precompiled_charsmap", Ints{1, 2});
  EXPECT_THAT(LoadTokenizer(checkpoint).status().message(), HasSubstr("precompiled_charsmap"));
}

TEST(Tokenizer, NamesInErrorsCannotForgeALine) {
  MemoryCheckpoint checkpoint = TestVocabulary();
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.pre"}) {
    MemoryCheckpoint other = TestVocabulary();
    other.Set(key, "\x1b[2J\nerror" + std::string(100000, 'x'));
    const std::string message = LoadTokenizer(other).status().message();
    EXPECT_THAT(message, HasSubstr("\"\\x1b[2J\\x0aerror"));
    EXPECT_LT(message.size(), 300U);
  }
  AddMerge("\n\r")(checkpoint);
  EXPECT_THAT(LoadTokenizer(checkpoint).status().message(), HasSubstr("\"\\x0a\\x0d\""));
}

}  // namespace
}  // namespace thermocline
