#pragma once

#include "kernels/base/hd.h"
#include "kernels/core/hadamard.h"

namespace thermocline {

// RotateBack (kernels/core/hadamard.h) of rows in shared memory, `stride` floats apart, by all
// threads of a block. SyncThreads comes before; it ends with one.
template <typename Thread>
HD void RotateRows(const Thread& x, float* rows, int num_rows, int stride, int dim,
                   const float* signs) {
  for (int done = 0; done < dim;) {
    const int size = LargestPowerOfTwo(dim - done);
    for (int half = 1; half < size; half *= 2) {
      for (int i = x.thread(); i < num_rows * size / 2; i += x.num_threads()) {
        const int pair = i % (size / 2);
        float* a = rows + i / (size / 2) * stride + done + pair / half * 2 * half + pair % half;
        const float sum = a[0] + a[half];
        a[half] = a[0] - a[half];
        a[0] = sum;
      }
      x.SyncThreads();
    }
    const float scale = InverseSqrtOfPower(size);
    for (int i = x.thread(); i < num_rows * size; i += x.num_threads()) {
      rows[i / size * stride + done + i % size] *= scale * signs[done + i % size];
    }
    done += size;
  }
  x.SyncThreads();
}

}  // namespace thermocline
