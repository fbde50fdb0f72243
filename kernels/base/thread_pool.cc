#include "kernels/base/thread_pool.h"
