#include "server/api/work_pool.h"

#include <gtest/gtest.h>

#include <future>
#include <new>

namespace thermocline {
namespace {

constexpr size_t kSmall = 10;
constexpr size_t kLarge = size_t{8} << 20;

TEST(WorkPool, SmallWorkDoesNotWaitForLarge) {
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  WorkPool pool(1);
  for (const size_t size : {kLarge, kLarge, size_t{100'000}}) {
    pool.Post(
        size, [released] { released.wait(); }, [] {});
  }
  std::promise<void> done;
  pool.Post(
      kSmall, [&done] { done.set_value(); }, [] {});
  done.get_future().wait();  // would not come if it waited
  release.set_value();
}

TEST(WorkPool, WorkThatFindsNoMemoryFailsAlone) {
  WorkPool pool(1);
  std::promise<void> failed;
  std::promise<void> next;
  pool.Post(
      kSmall, [] { throw std::bad_alloc(); }, [&failed] { failed.set_value(); });
  pool.Post(
      kSmall, [&next] { next.set_value(); }, [] {});
  failed.get_future().wait();
  next.get_future().wait();
}

}  // namespace
}  // namespace thermocline
