#include "engine/worker/worker_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace thermocline {
namespace {

using std::chrono::milliseconds;
// No test waits for it. It is less than ctest's limit, so that a hang fails the test that has it.
constexpr milliseconds kLong{120'000};

WorkerPoolOptions Options() {
  return {.program = ProgramBesideThis("worker_test_program"), .setup = "hello"};
}

std::unique_ptr<WorkerPool> MakePool(WorkerPoolOptions options = Options()) {
  Result<std::unique_ptr<WorkerPool>> pool = WorkerPool::Create(std::move(options));
  EXPECT_TRUE(pool.ok()) << pool.status().message();
  return std::move(pool).value();
}

std::string Answer(WorkerPool& pool, std::string_view request) {
  const Result<std::string> answer = pool.Call(request, kLong);
  return answer.ok() ? *answer : "error: " + answer.status().message();
}

TEST(WorkerPool, AnswersAndErrorsComeBack) {
  const auto pool = MakePool();
  EXPECT_EQ(Answer(*pool, "a"), "a");
  EXPECT_EQ(Answer(*pool, ""), "");
  const std::string large(size_t{20} << 20, 'x');
  EXPECT_TRUE(Answer(*pool, large) == large);
  const auto failed = pool->Call("fail", kLong);
  EXPECT_EQ(failed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(failed.status().message(), "no");
}

TEST(WorkerPool, AStartThatFailsSaysWhy) {
  WorkerPoolOptions options = Options();
  options.arguments = {"broken"};
  EXPECT_EQ(WorkerPool::Create(options).status().message(), "it is broken");
  options = Options();
  options.setup = "fail";
  EXPECT_EQ(WorkerPool::Create(options).status().message(), "no");
  options.setup = "crash";
  EXPECT_EQ(WorkerPool::Create(options).status().code(), StatusCode::kResourceExhausted);
  options.program = ProgramBesideThis("no_such_program");
  const Status missing = WorkerPool::Create(options).status();
  EXPECT_EQ(missing.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(missing.message().find("no_such_program"), std::string::npos);
}

TEST(WorkerPool, EndlessWorkIsAnErrorOfItsRequestAlone) {
  const auto pool = MakePool();
  EXPECT_EQ(pool->Call("spin", milliseconds(50)).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(pool->Call("sleep", milliseconds(50)).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Answer(*pool, "a"), "a");
}

TEST(WorkerPool, MemoryWithoutEndIsAnErrorOfItsRequestAlone) {
  const auto pool = MakePool();
  EXPECT_EQ(pool->Call("eat", kLong).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(Answer(*pool, "a"), "a");
}

TEST(WorkerPool, ACrashIsAnErrorOfItsRequestAlone) {
  const auto pool = MakePool();
  EXPECT_EQ(pool->Call("crash", kLong).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(Answer(*pool, "a"), "a");
}

TEST(WorkerPool, AWorkerKilledWhileIdleIsReplacedUnseen) {
  const auto pool = MakePool();
  for (int i = 0; i < 3; ++i) {
    for (const pid_t pid : pool->idle_pids()) {
      kill(pid, SIGKILL);
      siginfo_t info{};
      waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);  // until it has gone
    }
    EXPECT_EQ(Answer(*pool, "a"), "a");
  }
}

TEST(WorkerPool, SlowRequestsLeaveAWorkerToOthers) {
  WorkerPoolOptions options = Options();
  options.slow_after = milliseconds(20);
  const auto pool = MakePool(options);
  std::atomic<int> num_crowded = 0;
  std::atomic<int> num_stopped = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      const StatusCode code = pool->Call("spin", kLong).status().code();
      num_stopped += code == StatusCode::kUnavailable ? 1 : 0;
      num_crowded += code == StatusCode::kDeadlineExceeded ? 1 : 0;
      num_crowded.notify_one();
    });
  }
  for (int ended = 0; ended < 2; ended = num_crowded) {
    num_crowded.wait(ended);
  }
  EXPECT_EQ(Answer(*pool, "a"), "a");  // while one still spins
  pool->Stop();
  threads.clear();
  EXPECT_EQ(num_crowded, 2);
  EXPECT_EQ(num_stopped, 1);
}

TEST(WorkerPool, StoppingWaitsForNobody) {
  const auto pool = MakePool();
  std::jthread caller(
      [&] { EXPECT_EQ(pool->Call("sleep", kLong).status().code(), StatusCode::kUnavailable); });
  pool->Stop();
  caller.join();
  EXPECT_EQ(pool->Call("a", kLong).status().code(), StatusCode::kUnavailable);
}

TEST(WorkerPool, AWorkerHasNoFileOfItsParent) {
  const int file = open("/dev/null", O_RDONLY);  // not closed on exec
  const auto pool = MakePool();
  EXPECT_EQ(Answer(*pool, "descriptors"), "0 1 2 3 4 ");
  EXPECT_EQ(Answer(*pool, "open"), "refused");
  close(file);
}

TEST(WorkerPool, SignalsForTheParentAreNotForTheWorker) {
  WorkerPoolOptions options = Options();
  options.min_workers = options.max_workers = 1;
  const auto pool = MakePool(options);
  const std::string pid = Answer(*pool, "pid");
  EXPECT_NE(getpgid(std::stoi(pid)), getpgid(0));
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    kill(std::stoi(pid), number);
  }
  EXPECT_EQ(Answer(*pool, "pid"), pid);
}

TEST(WorkerPool, NoProcessIsLeftBehind) {
  {
    const auto pool = MakePool();
    EXPECT_EQ(Answer(*pool, "a"), "a");
  }
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);  // no child, not even an ended one
}

TEST(WorkerPool, ManyThreadsCall) {
  const auto pool = MakePool();
  std::vector<std::jthread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&pool, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string text = std::to_string(t * 1000 + i);
        EXPECT_EQ(Answer(*pool, text), text);
      }
    });
  }
}

}  // namespace
}  // namespace thermocline
