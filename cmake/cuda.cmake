# The pinned toolkit of `scripts/setup cuda`, never one that the machine has. kernels/cuda/sources.txt names what it
# compiles, and with which flags; scripts/check_cubins reads the same file.
if(DEFINED ENV{XDG_CACHE_HOME} AND NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  set(cuda_toolkit $ENV{XDG_CACHE_HOME}/thermocline/cuda/toolkit)
else()
  set(cuda_toolkit $ENV{HOME}/.cache/thermocline/cuda/toolkit)
endif()
set(THERMOCLINE_CUDA_TOOLKIT ${cuda_toolkit} CACHE PATH "The CUDA toolkit")
set(THERMOCLINE_CUDA_ARCHITECTURES "80;86;89;90a;100a;120" CACHE STRING "Compute capabilities that kernels are compiled for")
set(THERMOCLINE_NVCC ${THERMOCLINE_CUDA_TOOLKIT}/bin/nvcc)
if(NOT EXISTS ${THERMOCLINE_NVCC})
  message(FATAL_ERROR "THERMOCLINE_CUDA needs ${THERMOCLINE_NVCC}: run scripts/setup cuda")
endif()
set(nvcc_flags -std=c++20 -O3 --expt-relaxed-constexpr -diag-suppress 20012 -I${PROJECT_SOURCE_DIR})
foreach(architecture IN LISTS THERMOCLINE_CUDA_ARCHITECTURES)
  list(APPEND nvcc_flags -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()

# One object each, of host code and of cubins for all architectures.
set(THERMOCLINE_CUDA_OBJECTS "")
file(STRINGS ${PROJECT_SOURCE_DIR}/kernels/cuda/sources.txt lines REGEX "^[^#]")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS kernels/cuda/sources.txt)
foreach(line IN LISTS lines)
  separate_arguments(words UNIX_COMMAND "${line}")
  list(POP_FRONT words source)
  get_filename_component(name ${source} NAME_WE)
  set(object ${PROJECT_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/cuda
    COMMAND ${THERMOCLINE_NVCC} ${nvcc_flags} ${words} --threads 2 -MD -MF ${object}.d -c -o ${object} ${PROJECT_SOURCE_DIR}/${source}
    DEPENDS ${PROJECT_SOURCE_DIR}/${source}
    DEPFILE ${object}.d
    COMMENT "Compiling ${source} for ${THERMOCLINE_CUDA_ARCHITECTURES}"
    VERBATIM)
  list(APPEND THERMOCLINE_CUDA_OBJECTS ${object})
endforeach()

# What launches kernels on a GPU: the same functions as thermocline_cuda_*_host. The runtime is linked statically.
add_custom_target(thermocline_cuda_objects DEPENDS ${THERMOCLINE_CUDA_OBJECTS})
add_library(thermocline_cuda STATIC ${THERMOCLINE_CUDA_OBJECTS})
add_dependencies(thermocline_cuda thermocline_cuda_objects)
set_target_properties(thermocline_cuda PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(thermocline_cuda INTERFACE thermocline_cuda_moves ${THERMOCLINE_CUDA_TOOLKIT}/lib/libcudart_static.a Threads::Threads dl rt)
