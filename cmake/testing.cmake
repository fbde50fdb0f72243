# Where scripts/setup put the test model and the Python oracles.
if(DEFINED ENV{XDG_CACHE_HOME} AND NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  set(THERMOCLINE_CACHE_DIR $ENV{XDG_CACHE_HOME}/thermocline)
else()
  set(THERMOCLINE_CACHE_DIR $ENV{HOME}/.cache/thermocline)
endif()
set(THERMOCLINE_TEST_MODEL ${THERMOCLINE_CACHE_DIR}/models/SmolLM2-135M-Instruct.Q4_1.gguf)
set(THERMOCLINE_TEST_PYTHON ${THERMOCLINE_CACHE_DIR}/venv/bin/python)

# CPython keeps what it made until the process ends; that is no leak of ours.
set(THERMOCLINE_SANITIZER_ENVIRONMENT
    "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/leak_suppressions.txt:print_suppressions=0")

# Builds what `ctest -L tsan` runs.
add_custom_target(tsan_tests)

# thermocline_test(NAME SOURCES ... DEPENDS TARGETS... LABELS ... [OWN_NAMES]): one GoogleTest program,
# one ctest entry. The label `tsan` has it run under ThreadSanitizer too. OWN_NAMES: its sources use one
# name for different things, so they are never built as one.
function(thermocline_test name)
  cmake_parse_arguments(ARG "OWN_NAMES" "" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  if(ARG_OWN_NAMES)
    set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)
  endif()
  target_link_libraries(${name} PRIVATE thermocline_options ${ARG_DEPENDS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if("tsan" IN_LIST ARG_LABELS)
    add_dependencies(tsan_tests ${name})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600
                                          ENVIRONMENT "${THERMOCLINE_SANITIZER_ENVIRONMENT}")
endfunction()

# thermocline_pytest(NAME FILE [LABELS ...]): one pytest file, one ctest entry. It reads
# THERMOCLINE_MODEL and THERMOCLINE_BUILD (the folder with the programs under test) from the
# environment. Programs that it starts keep nothing in the user's cache and find nothing there. They
# do not calibrate: page formats that change while a test runs would make it another one each time.
function(thermocline_pytest name file)
  cmake_parse_arguments(ARG "" "" "LABELS" ${ARGN})
  add_test(NAME ${name}
           COMMAND ${THERMOCLINE_TEST_PYTHON} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  set_tests_properties(
    ${name}
    PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 900
               ENVIRONMENT
               "THERMOCLINE_MODEL=${THERMOCLINE_TEST_MODEL};THERMOCLINE_BUILD=${CMAKE_BINARY_DIR};THERMOCLINE_CALIBRATE=false;THERMOCLINE_CALIBRATION_DIR=${CMAKE_BINARY_DIR}/tests/calibration;${THERMOCLINE_SANITIZER_ENVIRONMENT}")
endfunction()
