#include "engine/kv/page_io.h"

#include <algorithm>
#include <span>
#include <tuple>
#include <utility>

namespace thermocline {

PageIo::PageIo(BackingStore& store, Device& device, std::byte* arena,
               std::array<uint32_t, kNumTiers> page_bytes, const PageNames& names)
    : store_(store),
      arena_(arena),
      page_bytes_(page_bytes),
      names_(names),
      lanes_{Lane{.stream = device.NewStream(StreamPriority::kBackground)},
             Lane{.stream = device.NewStream(StreamPriority::kBackground)}},
      saver_([this](const std::stop_token& stop) { Run(PageTransfer::Kind::kSave, stop); }),
      loader_([this](const std::stop_token& stop) { Run(PageTransfer::Kind::kLoad, stop); }) {}

std::optional<PageFinder::Info> PageIo::Find(const ContentHash& hash) const {
  const std::optional<PageNames::Stored> found = names_.Find(store_, hash);
  return found.has_value()
             ? std::optional(Info{found->info.tier, std::max(found->info.loss, found->info.tier)})
             : std::nullopt;
}

void PageIo::SetPinned(const ContentHash& hash, bool pinned) {
  names_.SetPinned(store_, hash, pinned);
}

void PageIo::Stop() {
  for (std::jthread* thread : {&saver_, &loader_}) {
    thread->request_stop();
  }
  for (std::jthread* thread : {&saver_, &loader_}) {
    if (thread->joinable()) {
      thread->join();
    }
  }
}

void PageIo::Start(std::vector<PageTransfer> transfers) {
  const std::lock_guard lock(mutex_);
  for (PageTransfer& transfer : transfers) {
    Lane& to = lane(transfer.kind);
    to.queue.emplace_back(std::move(transfer));
    ++num_unfinished_;
    to.wake.notify_one();
  }
}

void PageIo::Post(PageTransfer::Kind kind, std::function<void()> job) {
  const std::lock_guard lock(mutex_);
  lane(kind).queue.emplace_back(std::move(job));
  lane(kind).wake.notify_one();
}

void PageIo::set_on_end(std::function<void()> on_end) {
  const std::lock_guard lock(mutex_);
  on_end_ = std::move(on_end);
}

void PageIo::WhileIdle(const std::function<void()>& change) {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] {
    return std::all_of(lanes_.begin(), lanes_.end(),
                       [](const Lane& lane) { return lane.queue.empty() && !lane.in_work; });
  });
  change();
}

std::vector<FinishedTransfer> PageIo::TakeFinished(bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) {
    ended_.wait(lock, [&] { return !finished_.empty() || num_unfinished_ == 0; });
  }
  num_finished_ = 0;
  return std::exchange(finished_, {});
}

void PageIo::Run(PageTransfer::Kind kind, const std::stop_token& stop) {
  Lane& from = lane(kind);
  std::unique_lock lock(mutex_);
  while (from.wake.wait(lock, stop, [&] { return !from.queue.empty(); }) &&
         !stop.stop_requested()) {
    Job job = std::move(from.queue.front());
    from.queue.pop_front();
    from.in_work = true;
    lock.unlock();
    if (const auto* posted = std::get_if<std::function<void()>>(&job)) {
      (*posted)();
      lock.lock();
      from.in_work = false;
      ended_.notify_all();
      continue;
    }
    FinishedTransfer end = Copy(std::get<PageTransfer>(std::move(job)));
    lock.lock();
    from.in_work = false;
    --num_unfinished_;
    finished_.push_back(std::move(end));
    num_finished_ = finished_.size();
    ended_.notify_all();
    if (on_end_) {
      on_end_();
    }
  }
  // Whoever posted a job is owed its answer.
  for (std::deque<Job> left = std::exchange(from.queue, {}); const Job& job : left) {
    if (const auto* posted = std::get_if<std::function<void()>>(&job)) {
      lock.unlock();
      (*posted)();
      lock.lock();
    }
  }
}

FinishedTransfer PageIo::Copy(PageTransfer transfer) {
  FinishedTransfer end{.transfer = std::move(transfer)};
  end.ok = end.transfer.kind == PageTransfer::Kind::kSave ? Save(end.transfer) : Load(end.transfer);
  return end;
}

// What the store refuses (it is full of better pages, or its disk is) it counts itself.
bool PageIo::Save(const PageTransfer& transfer) {
  const PageContent& content = transfer.content;
  const Tier tier = transfer.place.tier();
  const std::optional<PageNames::Stored> found = names_.Find(store_, content.hash);
  if (found.has_value() &&
      std::tie(found->info.loss, found->info.tier) <= std::tie(content.loss, tier)) {
    return true;  // as good a copy is there
  }
  std::vector<std::byte> bytes(BytesOf(tier));
  Stream& stream = *lane(transfer.kind).stream;
  stream.Copy(bytes.data(), arena_ + transfer.place.offset(), bytes.size());
  if (!stream.Sync().ok()) {
    return false;
  }
  return store_
      .Put(names_.NameOf(content.hash, tier), {.tier = tier,
                                               .loss = content.loss,
                                               .first_position = content.first_position,
                                               .checksum = content.checksum,
                                               .previous = content.previous,
                                               .tenant = content.tenant,
                                               .tokens = content.tokens,
                                               .bytes = std::move(bytes)})
      .ok();
}

// A hash only says where to look: what is found has to be of this tenant, these tokens and this
// place in the sequence.
bool PageIo::Load(PageTransfer& transfer) {
  const Tier tier = transfer.place.tier();
  Result<StoredPage> page = store_.Get(names_.NameOf(transfer.content.hash, tier));
  const auto older = names_.OlderNameOf(transfer.content.hash, tier);
  if (page.status().code() == StatusCode::kNotFound && older.has_value() && recoder_ != nullptr) {
    page = store_.Get(*older);
    if (page.ok() && !recoder_->Recode(*page)) {
      return false;
    }
  }
  if (!page.ok()) {
    return false;
  }
  PageContent& content = transfer.content;
  if (page->tier != tier || page->bytes.size() != BytesOf(tier) ||
      page->previous != content.previous || page->tenant != content.tenant ||
      page->tokens != content.tokens || page->first_position != content.first_position) {
    return false;
  }
  Stream& stream = *lane(transfer.kind).stream;
  stream.Copy(arena_ + transfer.place.offset(), page->bytes.data(), page->bytes.size());
  if (!stream.Sync().ok()) {
    return false;
  }
  content.loss = page->loss;
  content.checksum = page->checksum;
  return true;
}

}  // namespace thermocline
