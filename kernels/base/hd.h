#pragma once

// Marks a function that both the host and a CUDA device compile.
#ifdef __CUDACC__
#define HD __host__ __device__
#else
#define HD
#endif
