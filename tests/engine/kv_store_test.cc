// Pages that outlive the arena and the process: the whole engine over real bytes and a store in a
// directory.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "engine/kv/kv_store.h"
#include "engine/kv/page_names.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/kv_process.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

TEST(KvStore, PagesOfAnotherModelOrLayoutHaveAnotherIdentity) {
  const ContentHash model{.low = 1, .high = 2};
  const ContentHash identity = KvIdentity(model, kSmallLayout);
  EXPECT_EQ(identity, KvIdentity(model, kSmallLayout));
  EXPECT_NE(identity, KvIdentity({.low = 1, .high = 3}, kSmallLayout));
  KvLayout layout = kSmallLayout;
  layout.page_tokens *= 2;
  EXPECT_NE(identity, KvIdentity(model, layout));
}

TEST(KvStore, WhatWasKeptInOlderFormatsIsRestoredWhole) {
  const TestFolder directory;
  const ProcessOptions before{.policy = KvPolicy::kCold, .formats = SafeKvFormats(kSmallLayout)};
  const ProcessOptions after{.policy = KvPolicy::kCold, .older = before.formats};
  std::vector<TokenId> conversation = FiniteTokens(200);
  uint64_t num_saved = 0;
  {
    Process process(directory.path(), before);
    conversation = process.Run(conversation, 40, "talk");
    num_saved = process.Do(&Engine::SaveSession, "talk").value().num_saved_tokens;
    EXPECT_GE(num_saved, 6U * kPageTokens);
  }
  Process process(directory.path(), after);
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "talk").value().num_restored_tokens, num_saved);
  process.Run(conversation, 8);
  EXPECT_EQ(static_cast<uint64_t>(process.usage.cached_prompt_tokens), num_saved);
  // Saved again, in today's formats, none of it is lost.
  conversation = process.Run(conversation, 8, "talk");
  EXPECT_GE(process.Do(&Engine::SaveSession, "talk").value().num_saved_tokens, num_saved);
}

TEST(KvStore, ColdPagesOfFormatsThatNobodyKnowsAreComputedAgain) {
  const TestFolder directory;
  std::vector<TokenId> conversation = FiniteTokens(200);
  conversation =
      Process(directory.path(), {.policy = KvPolicy::kCold, .formats = {.cold = {Codec::kInt8}}})
          .Run(conversation, 40);
  Process process(directory.path(), {.policy = KvPolicy::kCold});
  process.Run(conversation, 8);
  // The first page is warm, and no mean keys are taken off it.
  EXPECT_EQ(process.usage.cached_prompt_tokens, kPageTokens);
}

TEST(PageNames, HotPagesHaveOneNameAndCodedOnesOneForEachFormat) {
  const ContentHash hash{.low = 5, .high = 6};
  const KvFormats formats = DefaultKvFormats(kSmallLayout);
  KvFormats other_codec = formats;
  other_codec.cold[0] = Codec::kInt8;
  KvFormats other_means = formats;
  other_means.mean_keys.assign(4, 1.0F);
  const auto name = [&](const KvFormats& of, Tier tier) {
    return PageNames(of).NameOf(hash, tier);
  };
  for (const Tier tier : {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    EXPECT_EQ(name(formats, tier), name(formats, tier));
    EXPECT_EQ(name(formats, tier) == name(other_codec, tier), tier <= Tier::kWarm);
    EXPECT_EQ(name(formats, tier) == name(other_means, tier), tier == Tier::kHot);
  }
  EXPECT_EQ(name(formats, Tier::kHot), hash);
  EXPECT_NE(name(formats, Tier::kCold), name(formats, Tier::kArchive));
  const PageNames both(formats, other_codec);
  EXPECT_EQ(both.NameOf(hash, Tier::kCold), name(formats, Tier::kCold));
  EXPECT_EQ(both.OlderNameOf(hash, Tier::kCold), name(other_codec, Tier::kCold));
  EXPECT_FALSE(both.OlderNameOf(hash, Tier::kHot).has_value());
  EXPECT_FALSE(both.OlderNameOf(hash, Tier::kArchive).has_value());  // there is no way back
}

TEST(KvStore, AConversationGoesOnAfterARestartWithoutItsPromptBeingComputedAgain) {
  for (const KvPolicy policy : {KvPolicy::kHot, KvPolicy::kAdaptive, KvPolicy::kCold}) {
    const TestFolder directory;
    std::vector<TokenId> conversation = FiniteTokens(200);
    conversation = Process(directory.path(), {.policy = policy}).Run(conversation, 40);
    conversation.push_back(7);
    Process process(directory.path(), {.policy = policy});
    process.Run(conversation, 10);
    EXPECT_EQ(process.usage.restored_prompt_tokens, 7 * kPageTokens);
    EXPECT_EQ(process.usage.cached_prompt_tokens, 7 * kPageTokens);
    EXPECT_EQ(process.engine->stats().scheduler.restored_tokens, 7U * kPageTokens);
  }
}

TEST(KvStore, WithoutADirectoryPagesThatLeaveTheArenaComeBackFromMemory) {
  Process process("", {.num_units = 80});  // 20 hot pages
  const std::vector<TokenId> first = process.Run(FiniteTokens(300), 8);
  for (TokenId other = 1; other <= 4; ++other) {
    process.Run(FiniteTokens(300, other * 37), 8);  // takes ten pages
  }
  process.Run(first, 4);
  EXPECT_GT(process.usage.restored_prompt_tokens, 0);
}

TEST(KvStore, ADamagedFileCostsItsPageAndNothingElse) {
  const TestFolder directory;
  std::vector<TokenId> conversation = Process(directory.path()).Run(FiniteTokens(200), 40);
  for (const std::filesystem::path& file : directory.Files(".page")) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(3000);
    stream.put('\x5a');
    stream.put('\xa5');
  }
  Process process(directory.path());
  process.Run(conversation, 4);
  EXPECT_EQ(process.usage.restored_prompt_tokens, 0);
  EXPECT_GT(process.engine->stats().store->num_damaged, 0U);
}

TEST(KvStore, ManyConversationsThatReturnOverASmallArenaAllGiveTheirText) {
  const TestFolder directory;
  std::mt19937 random(3);
  std::vector<std::vector<TokenId>> conversations;
  for (TokenId i = 0; i < 12; ++i) {
    conversations.push_back(FiniteTokens(60 + 10 * i, i * 31));
  }
  uint64_t restored = 0;
  for (int restart = 0; restart < 3; ++restart) {
    Process process(
        directory.path(),
        {.policy = restart % 2 == 0 ? KvPolicy::kAdaptive : KvPolicy::kCold, .num_units = 100});
    for (int turn = 0; turn < 30; ++turn) {
      auto& conversation = conversations[random() % conversations.size()];
      if (conversation.size() > 400) {
        continue;
      }
      conversation.push_back(static_cast<TokenId>(random() % 400));
      conversation = process.Run(conversation, 20);
    }
    restored += process.engine->stats().scheduler.restored_tokens;
  }
  EXPECT_GT(restored, 2000U);
}

}  // namespace
}  // namespace thermocline
