#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/page_pools.h"

namespace thermocline {

inline constexpr int kVocab = 1000;
inline std::vector<TokenId> Counting(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// What has been saved: the states of a page under its hash.
class FakeStore : public PageFinder {
 public:
  struct Page {
    Tier tier = Tier::kHot;
    PageContent content;
    FakeRunner::States states;
  };

  std::optional<Info> Find(const ContentHash& hash) const override {
    const auto found = pages.find(hash.low);
    return found == pages.end()
               ? std::nullopt
               : std::optional(Info{found->second.tier, found->second.content.loss});
  }

  void SetPinned(const ContentHash& hash, bool pinned) override {
    num_pins[hash.low] += pinned ? 1 : -1;
    ASSERT_GE(num_pins[hash.low], 0);
  }
  // As the store does: a better copy stays.
  void Put(Page page) {
    const auto [there, added] = pages.emplace(page.content.hash.low, page);
    const auto rank = [](const Page& of) { return std::pair(of.content.loss, of.tier); };
    if (!added && rank(page) < rank(there->second)) {
      there->second = std::move(page);
    }
  }
  // As a store that is full does.
  void EvictUnpinned() {
    std::erase_if(pages, [&](const auto& page) { return num_pins[page.first] == 0; });
  }
  int num_pinned() const {
    return static_cast<int>(std::count_if(num_pins.begin(), num_pins.end(),
                                          [](const auto& pin) { return pin.second > 0; }));
  }

  std::map<uint64_t, Page> pages;
  std::map<uint64_t, int> num_pins;
};

// One process: a scheduler over an arena of its own and a store that may be older than it. The
// transfers are made when the test says so.
class TransferRig {
 public:
  TransferRig(FakeStore& store, int num_units, const TierConfig& tiers = {})
      : TransferRig(store, MakeTieredPool(num_units), tiers) {}
  TransferRig(FakeStore& store, std::unique_ptr<PagePool> pages, const TierConfig& tiers,
              int max_model_len = 48)
      : pool(std::move(pages)),
        scheduler({.max_num_seqs = 4,
                   .max_num_batched_tokens = 16,
                   .max_model_len = max_model_len,
                   .prefix_hash_key = 1,
                   .tiers = tiers},
                  *pool, &store),
        runner(*pool, kVocab),
        store_(store) {}

  void Add(RequestId id, std::vector<TokenId> prompt, int max_tokens = 4,
           KvFidelity fidelity = KvFidelity::kBalanced) {
    Request request;
    request.id = id;
    request.prompt = std::move(prompt);
    request.stop.max_tokens = max_tokens;
    request.kv_fidelity = fidelity;
    Submit(std::move(request));
  }
  void Submit(Request request) {
    const RequestId id = request.id;
    requests[id] = std::make_shared<const Request>(std::move(request));
    ASSERT_TRUE(scheduler.Add(requests[id]).ok());
  }

  // The tokens that each request computed in one step.
  std::map<RequestId, int> Step() {
    for (int round = 0; round < 4; ++round) {
      const MovePlan moves = scheduler.ProposeMoves();
      runner.StartMoves(moves.moves);
      scheduler.EndMoves(runner.FinishedMoves(moves.wait || !late_moves));
    }
    const StepPlan plan = scheduler.Schedule();
    Take();
    const RunResult result = runner.Run(plan).value();
    std::map<RequestId, int> ran;
    std::vector<RequestId> ended;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const Sequence& sequence = *plan.sequences[i].sequence;
      const RequestId id = sequence.request->id;
      ran[id] = plan.sequences[i].num_tokens;
      cached[id] = sequence.num_cached;
      auto& text = output[id];
      text.insert(text.end(), result.step.accepted[i].begin(), result.step.accepted[i].end());
      if (static_cast<int>(text.size()) >= sequence.request->stop.max_tokens) {
        ended.push_back(id);
      }
    }
    scheduler.Update(plan, result.step);
    for (const RequestId id : ended) {
      scheduler.Finish(id, 0);
    }
    return ran;
  }

  void Take() {
    for (PageTransfer& transfer : scheduler.TakeTransfers()) {
      transfers.push_back(std::move(transfer));
    }
  }

  // What the store no longer has, or has in another tier by now, does not come.
  void EndOneTransfer(bool ok = true) {
    ASSERT_FALSE(transfers.empty());
    if (transfers.front().kind != PageTransfer::Kind::kSave) {
      const auto found = store_.Find(transfers.front().content.hash);
      ok = ok && found.has_value() && found->tier == transfers.front().place.tier();
    }
    FinishedTransfer end{.transfer = transfers.front(), .ok = ok};
    transfers.pop_front();
    PageContent& content = end.transfer.content;
    const PageEntry place = end.transfer.place;
    if (ok && end.transfer.kind == PageTransfer::Kind::kSave) {
      store_.Put({place.tier(), content, runner.StatesAt(place)});
    } else if (ok) {
      const FakeStore::Page& page = store_.pages.at(content.hash.low);
      ASSERT_EQ(page.content.tokens, content.tokens);
      ASSERT_EQ(page.content.first_position, content.first_position);
      ASSERT_TRUE(page.content.previous == content.previous);
      runner.SetStatesAt(place, page.states, content.first_position);
      content.loss = page.content.loss;
      content.checksum = page.content.checksum;
    }
    scheduler.EndTransfers(std::span(&end, 1));
    ASSERT_TRUE(pool->Audit().ok()) << pool->Audit().message();
  }
  void EndTransfers() {
    for (Take(); !transfers.empty(); Take()) {
      EndOneTransfer();
    }
  }

  void RunAll() {
    for (int i = 0; i < 1000 && scheduler.has_work(); ++i) {
      Step();
      EndTransfers();
    }
    ASSERT_FALSE(scheduler.has_work());
  }
  void ExpectWholeOutput(RequestId id) {
    const Request& request = *requests.at(id);
    EXPECT_EQ(output[id],
              FakeRunner::ExpectedOutput(request.prompt, 0, request.stop.max_tokens, kVocab));
  }
  void ExpectNothingHeld() {
    EXPECT_EQ(pool->num_transferring(), 0U);
    for (const PageId page : pool->OldestCached(pool->num_evictable())) {
      EXPECT_EQ(pool->num_refs(page), 0);
    }
    EXPECT_TRUE(pool->Audit().ok()) << pool->Audit().message();
  }

  std::unique_ptr<PagePool> pool;
  Scheduler scheduler;
  FakeRunner runner;
  std::map<RequestId, std::shared_ptr<const Request>> requests;
  std::map<RequestId, std::vector<TokenId>> output;
  std::map<RequestId, int> cached;
  std::deque<PageTransfer> transfers;  // taken, in order
  bool late_moves = false;             // those that no step waits for end some steps later

 private:
  FakeStore& store_;
};

}  // namespace thermocline
