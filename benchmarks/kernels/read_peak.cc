// How fast memory can be read, to hold decoding against:
//   read_peak NUM_THREADS
// Prints bytes per second of all threads together, by the clock on the wall: the best of some
// passes over a GiB, of which each thread reads its part.

#include <fmt/core.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "benchmarks/kernels/machine_peak.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_device.h"

namespace thermocline {
namespace {

constexpr int kPasses = 5;
constexpr size_t kBytes = size_t{1} << 30;

double BytesPerSecond(int num_threads) {
  const Buffer buffer = AllocateHostBuffer(kBytes).value();
  std::memset(buffer.data(), 1, buffer.bytes());
  const size_t part = kBytes / static_cast<size_t>(num_threads) / 4096 * 4096;
  std::barrier all_here(num_threads + 1);
  std::vector<std::jthread> threads;
  for (int t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      for (int pass = 0; pass < kPasses; ++pass) {
        all_here.arrive_and_wait();
        ReadMemory(buffer.data() + part * static_cast<size_t>(t), part);
        all_here.arrive_and_wait();
      }
    });
  }
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    all_here.arrive_and_wait();
    const auto begin = std::chrono::steady_clock::now();
    all_here.arrive_and_wait();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(part) * num_threads / seconds.count());
  }
  return best;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  CHECK(argc == 2);
  fmt::print("{:.6g}\n", thermocline::BytesPerSecond(std::stoi(argv[1])));
}
