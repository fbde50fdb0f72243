#include "server/http/connection_writer.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

namespace thermocline {

SessionWriter::SessionWriter(std::shared_ptr<HttpSession> session, uint64_t answer)
    : session_(std::move(session)), answer_(answer) {}

SessionWriter::~SessionWriter() {
  if (!ended_) {
    Run([session = session_, answer = answer_] { session->AnswerNothing(answer); });
  }
}

// Once the I/O threads have stopped nothing is posted: their context may be going. Posting needs
// memory. Without it the connection is marked, for an answer that lacks a part must not look whole.
template <typename Task>
void SessionWriter::Run(Task task) noexcept {
  if (session_->table_.stopped()) {
    return;
  }
  try {
    boost::asio::dispatch(
        session_->socket_.get_executor(),
        [session = session_, task = std::move(task)]() mutable { session->Guarded(task); });
  } catch (const std::exception&) {
    session_->broken_ = true;
  }
}

void SessionWriter::AddHeader(std::string name, std::string value) {
  Run([session = session_, answer = answer_, name = std::move(name),
       value = std::move(value)]() mutable {
    session->AddHeader(answer, std::move(name), std::move(value));
  });
}

void SessionWriter::Respond(HttpResponse response) {
  ended_ = true;
  Run([session = session_, answer = answer_, response = std::move(response)]() mutable {
    session->Respond(answer, std::move(response));
  });
}

void SessionWriter::StartStream(HttpResponse head) {
  Run([session = session_, answer = answer_, head = std::move(head)] {
    session->StartStream(answer, head);
  });
}

void SessionWriter::Write(std::string bytes) {
  Run([session = session_, answer = answer_, bytes = std::move(bytes)]() mutable {
    session->WriteStream(answer, std::move(bytes));
  });
}

void SessionWriter::EndStream() {
  ended_ = true;
  Run([session = session_, answer = answer_] { session->EndStream(answer); });
}

void SessionWriter::OnDisconnect(std::function<void()> callback) {
  Run([session = session_, answer = answer_, callback = std::move(callback)]() mutable {
    session->SetDisconnect(answer, std::move(callback));
  });
}

void SessionWriter::Post(std::function<void()> task) {
  if (session_->table_.stopped()) {
    return;
  }
  try {
    boost::asio::post(session_->socket_.get_executor(),
                      [session = session_, task = std::move(task)] { session->Guarded(task); });
  } catch (const std::exception&) {
    session_->broken_ = true;
  }
}

bool SessionWriter::connected() const { return !session_->closed(); }

}  // namespace thermocline
