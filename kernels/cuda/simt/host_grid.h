#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

// Kernels on a CPU, for tests: a fiber for each thread of a block. A fiber runs until it needs the
// others; what a warp does together the last lane to come computes once. Shared memory is poison
// before it is written and while a copy is under way, copies arrive when they are waited for and no
// sooner, and threads and blocks run in the order that a test chooses. A mistake ends the process
// with a sentence that names it: threads that come for different things or not at all, copies that
// are not waited for, read too soon, begun anew too soon or never ended.
//
// What it does not find: races that its order hides, and what DeviceThread's own instructions do.
// Fibers are switched in assembly for x86-64 (System V); other machines build without it.

namespace thermocline {

class HostThread;

// In which order the threads of a block, and the blocks of a grid, take turns.
struct GridOrder {
  enum class Kind : uint8_t { kForward, kReverse, kRandom };
  Kind kind = Kind::kForward;
  uint32_t seed = 1;  // of kRandom
};

// One launch. Blocks run two by two, their threads in turns; a pair ends before the next begins.
class HostGrid {
 public:
  HostGrid(int num_blocks, int num_threads, uint32_t shared_bytes, GridOrder order = {});
  void Run(const std::function<void(HostThread&)>& kernel);

 private:
  friend class HostThread;
  static constexpr int kPoison = 0xcd;
  static constexpr size_t kResidentBlocks = 2;

  struct Part {
    std::byte* to;
    const std::byte* from;
    uint32_t bytes;
  };
  struct Copy {
    int stage;  // -1: there is none
    uint32_t bytes;
    int64_t number;           // copies that the warp began before it
    int num_runs = 0;         // of parts
    std::vector<Part> parts;  // of all runs
    uint32_t part_bytes = 0;
  };
  struct Warp {
    int arrived = 0;  // lanes that wait for the others
    int64_t generation = 0;
    const char* what = nullptr;  // they wait for
    int line = 0;
    uint32_t waiting = 0;                  // bit of each lane
    alignas(16) std::byte values[32][32];  // each lane's arguments, then its results
    std::vector<Copy> copies;              // begun and not ended, oldest first
    int64_t num_begun = 0;
  };
  struct Block {
    int index = 0;
    std::vector<std::byte> memory;
    std::byte* shared = nullptr;  // in it
    std::vector<Warp> warps;
    int arrived = 0;  // threads that wait in SyncThreads
    int64_t generation = 0;
    int num_done = 0;
  };
  struct Fiber {
    std::unique_ptr<std::byte[]> memory;
    void* stack = nullptr;
    Block* block = nullptr;
    int thread = 0;
    bool done = true;
  };

  static void FiberMain(HostGrid* grid);
  void RunBlocks(const int* blocks, size_t count);
  void PrepareFiber(Fiber& fiber);
  void CheckEnd(const Block& block) const;
  void Yield();
  std::string WhoWaits() const;

  int num_threads_;
  uint32_t shared_bytes_;
  std::vector<int> block_order_;
  std::vector<size_t> thread_order_;
  std::vector<Block> blocks_;  // resident
  std::vector<Fiber> fibers_;  // of them, as they take turns
  size_t running_ = 0;
  size_t num_left_ = 0;
  size_t num_idle_ = 0;  // switches since anything went on
  void* main_stack_ = nullptr;
  const std::function<void(HostThread&)>* kernel_ = nullptr;
};

}  // namespace thermocline
