#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/output_sink.h"

namespace thermocline {

// What one request gave, readable from any thread. Shared: the engine destroys the sink that fills
// it when the request ends.
class Recording {
 public:
  std::vector<TokenId> tokens(int choice = 0) const {
    const std::lock_guard lock(mutex_);
    return tokens_.size() > static_cast<size_t>(choice) ? tokens_[static_cast<size_t>(choice)]
                                                        : std::vector<TokenId>();
  }
  std::vector<TokenLogprobs> logprobs() const {
    const std::lock_guard lock(mutex_);
    return logprobs_;
  }
  // All that came, with whatever delta.
  std::vector<TokenLogprobs> prompt_logprobs() const {
    const std::lock_guard lock(mutex_);
    return prompt_logprobs_;
  }
  bool done() const {
    const std::lock_guard lock(mutex_);
    return num_done_ > 0;
  }
  // The end, waited for; a test that hangs fails after a minute.
  Status Wait() const {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(60), [&] { return num_done_ > 0; })) {
      return {StatusCode::kDeadlineExceeded, "the request did not end"};
    }
    return num_done_ == 1 ? status_ : Status(StatusCode::kUnknown, "OnDone came twice");
  }
  // At least `count` tokens of choice 0, or the end.
  void WaitForTokens(size_t count) const {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      return num_done_ > 0 || (!tokens_.empty() && tokens_[0].size() >= count);
    });
  }
  Usage usage() const {
    const std::lock_guard lock(mutex_);
    return usage_;
  }

 private:
  friend class RecordingSink;
  mutable std::mutex mutex_;
  // Guarded by mutex_:
  std::vector<std::vector<TokenId>> tokens_;  // by choice
  std::vector<TokenLogprobs> logprobs_;       // of choice 0
  std::vector<TokenLogprobs> prompt_logprobs_;
  Status status_;
  Usage usage_;
  int num_done_ = 0;
  mutable std::condition_variable changed_;
};

class RecordingSink : public OutputSink {
 public:
  explicit RecordingSink(std::shared_ptr<Recording> recording) : recording_(std::move(recording)) {}

  void OnDelta(OutputDelta delta) override {
    const std::lock_guard lock(recording_->mutex_);
    const auto choice = static_cast<size_t>(delta.choice);
    if (recording_->tokens_.size() <= choice) {
      recording_->tokens_.resize(choice + 1);
    }
    auto& tokens = recording_->tokens_[choice];
    tokens.insert(tokens.end(), delta.token_ids.begin(), delta.token_ids.end());
    if (choice == 0) {
      recording_->logprobs_.insert(recording_->logprobs_.end(), delta.logprobs.begin(),
                                   delta.logprobs.end());
    }
    recording_->prompt_logprobs_.insert(recording_->prompt_logprobs_.end(),
                                        delta.prompt_logprobs.begin(), delta.prompt_logprobs.end());
    recording_->changed_.notify_all();
  }
  void OnDone(const Status& status, const Usage& usage) override {
    const std::lock_guard lock(recording_->mutex_);
    recording_->status_ = status;
    recording_->usage_ = usage;
    ++recording_->num_done_;
    recording_->changed_.notify_all();
  }

 private:
  std::shared_ptr<Recording> recording_;
};

}  // namespace thermocline
