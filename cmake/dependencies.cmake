# Third-party libraries, all from Debian (scripts/setup installs them).
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(ICU REQUIRED COMPONENTS uc)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(PROMETHEUS REQUIRED IMPORTED_TARGET prometheus-cpp-core)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

# Debian's own Python, whatever else stands first on PATH: its headers, library and jinja2 belong
# together, and the embedded interpreter must be that one.
set(PYTHON_EXECUTABLE /usr/bin/python3)
set(PYBIND11_FINDPYTHON OFF)
find_package(pybind11 REQUIRED)

if(THERMOCLINE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(THERMOCLINE_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()
