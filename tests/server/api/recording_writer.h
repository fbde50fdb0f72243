#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "server/http/http_types.h"

namespace thermocline {

// A connection without a socket: keeps what is written, runs tasks at once. One thread.
class RecordingWriter final : public ResponseWriter {
 public:
  void AddHeader(std::string name, std::string value) override {
    headers.emplace_back(std::move(name), std::move(value));
  }
  void Respond(HttpResponse answer) override {
    response = std::move(answer);
    if (const std::function<std::string()> next = std::exchange(response.next_piece, nullptr)) {
      for (std::string piece = next(); !piece.empty(); piece = next()) {
        response.body += piece;
      }
    }
    EndStream();
  }
  void StartStream(HttpResponse head) override { response = std::move(head); }
  void Write(std::string bytes) override { stream += bytes; }
  void EndStream() override {
    ended = true;
    on_disconnect = nullptr;  // it may hold this writer
  }
  void OnDisconnect(std::function<void()> callback) override {
    on_disconnect = std::move(callback);
  }
  // In order, not nested: a task that posts another is finished first, as on a strand.
  void Post(std::function<void()> task) override {
    tasks_.push_back(std::move(task));
    if (running_) {
      return;
    }
    running_ = true;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const std::function<void()> next = std::move(tasks_[i]);
      next();
    }
    tasks_.clear();
    running_ = false;
  }

  HttpHeaders headers;
  HttpResponse response;
  std::string stream;
  bool ended = false;
  std::function<void()> on_disconnect;

 private:
  std::vector<std::function<void()>> tasks_;
  bool running_ = false;
};

}  // namespace thermocline
