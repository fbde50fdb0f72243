#include "server/http/connection_writer.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

namespace thermocline {

ConnectionWriter::ConnectionWriter(std::shared_ptr<HttpConnection> connection, uint64_t answer)
    : connection_(std::move(connection)), answer_(answer) {}

ConnectionWriter::~ConnectionWriter() {
  if (!ended_) {
    Run([connection = connection_, answer = answer_] { connection->AnswerNothing(answer); });
  }
}

// Once the I/O threads have stopped nothing is posted: their context may be going. Posting needs
// memory. Without it the connection is marked, for an answer that lacks a part must not look whole.
template <typename Task>
void ConnectionWriter::Run(Task task) noexcept {
  if (connection_->table_.stopped()) {
    return;
  }
  try {
    boost::asio::dispatch(connection_->socket_.get_executor(),
                          [connection = connection_, task = std::move(task)]() mutable {
                            connection->Guarded(task);
                          });
  } catch (const std::exception&) {
    connection_->broken_ = true;
  }
}

void ConnectionWriter::AddHeader(std::string name, std::string value) {
  Run([connection = connection_, answer = answer_, name = std::move(name),
       value = std::move(value)]() mutable {
    connection->AddHeader(answer, std::move(name), std::move(value));
  });
}

void ConnectionWriter::Respond(HttpResponse response) {
  ended_ = true;
  Run([connection = connection_, answer = answer_, response = std::move(response)]() mutable {
    connection->Respond(answer, std::move(response));
  });
}

void ConnectionWriter::StartStream(HttpResponse head) {
  Run([connection = connection_, answer = answer_, head = std::move(head)] {
    connection->StartStream(answer, head);
  });
}

void ConnectionWriter::Write(std::string bytes) {
  Run([connection = connection_, answer = answer_, bytes = std::move(bytes)]() mutable {
    connection->WriteStream(answer, std::move(bytes));
  });
}

void ConnectionWriter::EndStream() {
  ended_ = true;
  Run([connection = connection_, answer = answer_] { connection->EndStream(answer); });
}

void ConnectionWriter::OnDisconnect(std::function<void()> callback) {
  Run([connection = connection_, answer = answer_, callback = std::move(callback)]() mutable {
    connection->SetDisconnect(answer, std::move(callback));
  });
}

void ConnectionWriter::Post(std::function<void()> task) {
  if (connection_->table_.stopped()) {
    return;
  }
  try {
    boost::asio::post(
        connection_->socket_.get_executor(),
        [connection = connection_, task = std::move(task)] { connection->Guarded(task); });
  } catch (const std::exception&) {
    connection_->broken_ = true;
  }
}

bool ConnectionWriter::connected() const { return !connection_->closed(); }

}  // namespace thermocline
