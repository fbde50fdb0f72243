#include "kernels/cuda/rows/host_row_launches.h"

#include "kernels/base/check.h"
#include "kernels/cuda/rows/finish_qkv.cuh"
#include "kernels/cuda/rows/fold_page.cuh"
#include "kernels/cuda/rows/norm_row.cuh"
#include "kernels/cuda/rows/row_parts.cuh"
#include "kernels/cuda/simt/host_thread.h"

namespace thermocline {
namespace {

template <typename Kernel>
void Run(int64_t num_blocks, int num_threads, uint32_t shared_bytes, GridOrder order,
         Kernel kernel) {
  if (num_blocks > 0) {
    HostGrid(static_cast<int>(num_blocks), num_threads, shared_bytes, order)
        .Run([&](HostThread& thread) { kernel(thread); });
  }
}

template <typename Kernel>
void RunParts(int num_rows, int dim, GridOrder order, Kernel kernel) {
  Run(NumPartBlocks(num_rows, dim), kRowThreads, 0, order, kernel);
}

}  // namespace

void RunRows(const EmbedLaunch& launch, GridOrder order) {
  RunParts(launch.num_rows, launch.dim, order,
           [&](HostThread& thread) { EmbedPart(thread, launch); });
}

void RunRows(const GatherLaunch& launch, GridOrder order) {
  RunParts(launch.num_rows, launch.dim, order,
           [&](HostThread& thread) { GatherPart(thread, launch); });
}

void RunRows(const NormLaunch& launch, GridOrder order) {
  Run(launch.num_rows, kRowThreads, kNormSharedBytes, order,
      [&](HostThread& thread) { NormRow(thread, launch); });
}

void RunRows(const BiasLaunch& launch, GridOrder order) {
  RunParts(launch.num_rows, launch.dim, order,
           [&](HostThread& thread) { AddBiasPart(thread, launch); });
}

void RunRows(const GateLaunch& launch, GridOrder order) {
  RunParts(launch.num_rows, launch.dim, order,
           [&](HostThread& thread) { GatePart(thread, launch); });
}

void RunRows(const QkvLaunch& launch, GridOrder order) {
  using Finisher = QkvFinisher<HostThread>;
  Run(Finisher::NumBlocks(launch), 32 * Finisher::kWarps, Finisher::SharedBytes(launch), order,
      [&](HostThread& thread) { Finisher(thread, launch).Run(); });
}

void RunRows(const FoldLaunch& launch, GridOrder order) {
  Run(NumFoldBlocks(launch.num_pages), kFoldThreads, 0, order,
      [&](HostThread& thread) { FoldPage(thread, launch); });
}

void LaunchEmbed(const EmbedLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

void LaunchGather(const GatherLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

void LaunchNorm(const NormLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

void LaunchBias(const BiasLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

void LaunchGate(const GateLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

void LaunchQkv(const QkvLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

void LaunchFold(const FoldLaunch& launch, void* stream) {
  CHECK(stream == nullptr);
  RunRows(launch, {});
}

}  // namespace thermocline
