#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

// What a kernel sees of a GPU: one object per thread, each method an instruction or a few. Kernels
// are templates over this class or HostThread (host_thread.h), which has the same methods, and
// reach other threads, shared memory, copies, rounding and the matrix units through it alone.

namespace thermocline {

class DeviceThread {
 public:
  __device__ int lane() const { return threadIdx.x & 31; }
  __device__ int warp() const { return threadIdx.x >> 5; }
  __device__ int thread() const { return threadIdx.x; }  // in its block
  __device__ int num_threads() const { return blockDim.x; }
  __device__ int block() const { return blockIdx.x; }
  __device__ int num_blocks() const { return gridDim.x; }
  template <typename T>
  __device__ T* shared(uint32_t offset) const {
    extern __shared__ __align__(128) std::byte memory[];
    return reinterpret_cast<T*>(memory + offset);
  }

  // Collectives. All lanes of a warp call them, SyncThreads all threads of a block. T: 4 or 8
  // bytes.
  __device__ void SyncWarp() const { __syncwarp(); }
  __device__ void SyncThreads() const { __syncthreads(); }
  template <typename T>
  __device__ T ShuffleXor(T x, int mask) const {
    return __shfl_xor_sync(~0U, x, mask);
  }
  template <typename T>
  __device__ T ShuffleDown(T x, int delta) const {  // of lane + delta, or x where there is none
    return __shfl_down_sync(~0U, x, delta);
  }
  template <typename T>
  __device__ T Broadcast(T x, int lane) const {  // each lane may ask for another one's
    return __shfl_sync(~0U, x, lane);
  }
  __device__ uint32_t Ballot(bool x) const { return __ballot_sync(~0U, x); }  // bit of each lane

  // Adds in global or shared memory and gives what was there before. The order of threads is not
  // told.
  __device__ static uint32_t AtomicAdd(uint32_t* to, uint32_t x) { return atomicAdd(to, x); }
  __device__ static uint64_t AtomicAdd(uint64_t* to, uint64_t x) {
    return atomicAdd(reinterpret_cast<unsigned long long*>(to), x);
  }
  __device__ static uint32_t AtomicMax(uint32_t* to, uint32_t x) { return atomicMax(to, x); }
  __device__ static uint64_t AtomicMin(uint64_t* to, uint64_t x) {
    return atomicMin(reinterpret_cast<unsigned long long*>(to), x);
  }

  // Bits. A nibble of the selector chooses byte 0 to 7 of high:low; + 8: its sign, eight times.
  __device__ static uint32_t Permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
  }
  __device__ static uint32_t Bits(float x) { return __float_as_uint(x); }
  __device__ static float FloatOfBits(uint32_t bits) { return __uint_as_float(bits); }

  // Near functions: within some units in the last place, and not the same bits as on a CPU.
  __device__ static float Exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  __device__ static float Log2(float x) { return __log2f(x); }
  __device__ static float Divide(float x, float y) { return __fdividef(x, y); }

  // Rounded to nearest, ties to even: the same bits on every machine. Sums and products that must
  // not be contracted are written with Add and Multiply.
  __device__ static float Add(float a, float b) { return __fadd_rn(a, b); }
  __device__ static float Multiply(float a, float b) { return __fmul_rn(a, b); }
  __device__ static float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  __device__ static float DivideExactly(float x, float y) { return __fdiv_rn(x, y); }
  __device__ static float SquareRoot(float x) { return __fsqrt_rn(x); }
  __device__ static float RoundToWhole(float x) { return rintf(x); }
  __device__ static float HalfBits(uint32_t half) {  // of the low 16 bits
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<uint16_t>(half)));
    return x;
  }
  __device__ static uint32_t HalfOf(float x) {
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
  }

  // Whole words at addresses that they divide. `shared`: memory of shared(), read or written.
  struct Words {
    uint32_t w[4];
  };
  struct WordPair {
    uint32_t w[2];
  };
  __device__ static Words Load16(const std::byte* shared) { return LoadWords(shared); }
  __device__ static WordPair Load8(const std::byte* shared) { return LoadPair(shared); }
  __device__ static uint32_t Load4(const std::byte* shared) {
    return *reinterpret_cast<const uint32_t*>(shared);
  }
  __device__ static void Store16(std::byte* shared, const Words& x) {
    *reinterpret_cast<uint4*>(shared) = make_uint4(x.w[0], x.w[1], x.w[2], x.w[3]);
  }
  __device__ static void Store8(std::byte* shared, const WordPair& x) {
    *reinterpret_cast<uint2*>(shared) = make_uint2(x.w[0], x.w[1]);
  }
  __device__ static Words LoadGlobal16(const void* from) { return LoadWords(from); }
  __device__ static WordPair LoadGlobal8(const void* from) { return LoadPair(from); }
  __device__ static void StoreGlobal16(void* to, const Words& x) {
    *reinterpret_cast<uint4*>(to) = make_uint4(x.w[0], x.w[1], x.w[2], x.w[3]);
  }
  __device__ static void StoreGlobal8(void* to, const WordPair& x) {
    *reinterpret_cast<uint2*>(to) = make_uint2(x.w[0], x.w[1]);
  }

  // sums [16, 8] += a [16, 32] b [32, 8], in the fragments of mma.m16n8k32; bytes of `b` have a
  // sign, those of `a` are of type A.
  template <typename A>
  __device__ void Multiply(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                           uint32_t b1) const {
    if constexpr (std::is_signed_v<A>) {
      asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9},"
          "{%0,%1,%2,%3};"
          : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9},"
          "{%0,%1,%2,%3};"
          : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }
  // sums [16, 8] += a [16, 16] b [16, 8] of halves, in the fragments of mma.m16n8k16.
  __device__ void MultiplyHalves(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                 uint32_t b1) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9},"
        "{%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  // What this thread has stored into shared memory comes before copies that are begun later.
  __device__ static void FenceCopies() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  }

  // A warp's own copies from global into shared memory; every lane calls every method with the same
  // arguments. InitCopies: `barriers` are 8 bytes for each stage. A stage is begun, gets one or
  // more runs of parts whose bytes add up to `bytes`, and is committed. It is begun anew after its
  // EndCopy and a SyncWarp behind the last read of it. Copies end in the order in which they begin;
  // NoCopy stands for one that there is none of. A part has a multiple of 16 bytes and addresses
  // that 16 divides; a run has at most 32 parts.
#if __CUDA_ARCH__ >= 900  // the copy engine: one instruction of a lane for each part
  __device__ void InitCopies(uint64_t* barriers, int num_stages) {
    barriers_ = Address(barriers);
    if (lane() < num_stages) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8 * lane()));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncwarp();
  }
  __device__ void BeginStage(int stage, uint32_t bytes) const {
    if (lane() == 0) {
      asm volatile(
          "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barriers_ + 8 * stage),
          "r"(bytes)
          : "memory");
    }
    __syncwarp();  // parts of other lanes count against it
  }
  __device__ void CopyParts(int stage, int num_parts, std::byte* to, uint32_t to_stride,
                            const std::byte* from, uint32_t from_stride,
                            uint32_t part_bytes) const {
    if (lane() < num_parts) {
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(Address(to + lane() * to_stride)),
          "l"(from + lane() * from_stride), "r"(part_bytes), "r"(barriers_ + 8 * stage)
          : "memory");
    }
  }
  __device__ void CommitStage(int) const {}
  __device__ void NoCopy() const {}
  template <int kBehind>
  __device__ void EndCopy(int stage) {
    asm volatile(
        "{\n .reg .pred done;\nwait:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        " @!done bra wait;\n}" ::"r"(barriers_ + 8 * stage),
        "r"(phases_ >> stage & 1)
        : "memory");
    phases_ ^= 1U << stage;
  }
#else  // 16 bytes of each lane
  __device__ void InitCopies(uint64_t*, int) {}
  __device__ void BeginStage(int, uint32_t) const {}
  __device__ void CopyParts(int, int num_parts, std::byte* to, uint32_t to_stride,
                            const std::byte* from, uint32_t from_stride,
                            uint32_t part_bytes) const {
    for (int part = 0; part < num_parts; ++part) {
      for (uint32_t at = 16 * lane(); at < part_bytes; at += 16 * 32) {
        asm volatile(
            "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(Address(to + part * to_stride + at)),
            "l"(from + part * from_stride + at)
            : "memory");
      }
    }
  }
  __device__ void CommitStage(int) const { NoCopy(); }
  __device__ void NoCopy() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int kBehind>  // copies begun after this one, which may go on
  __device__ void EndCopy(int) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kBehind) : "memory");
    __syncwarp();
  }
#endif
  // A stage of one part.
  __device__ void BeginCopy(int stage, std::byte* to, const std::byte* from, uint32_t bytes) const {
    BeginStage(stage, bytes);
    CopyParts(stage, 1, to, 0, from, 0, bytes);
    CommitStage(stage);
  }

 private:
  __device__ static uint32_t Address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  }
  __device__ static Words LoadWords(const void* from) {
    const uint4 v = *reinterpret_cast<const uint4*>(from);
    return {{v.x, v.y, v.z, v.w}};
  }
  __device__ static WordPair LoadPair(const void* from) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    return {{v.x, v.y}};
  }

  uint32_t barriers_ = 0;
  uint32_t phases_ = 0;
};

}  // namespace thermocline
