# How our own code is compiled: the warning set of CONTRIBUTING.md; sanitizers and fuzzing by option.
add_library(om_options INTERFACE)
target_include_directories(om_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_compile_definitions(om_options INTERFACE _POSIX_C_SOURCE=200809L $<$<PLATFORM_ID:Darwin>:_DARWIN_C_SOURCE>)
set(om_warnings
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
    -Wvla -Wwrite-strings -Wundef -Wformat=2 -Wdouble-promotion -Wswitch-enum)
# No contraction of a*b+c into one rounding: the same inputs give the same bytes on every machine.
target_compile_options(om_options INTERFACE
    $<$<COMPILE_LANGUAGE:C>:${om_warnings};-fno-common;-ffp-contract=off>
    $<$<BOOL:${OPTIMUM_WERROR}>:-Werror>)
# ggml is built for this processor too (GGML_NATIVE). Contraction is off and no sum is reordered, so wider registers
# change the speed, not the results. Not with the sanitizers: gcc up to 13.2 puts 64-byte vectors on a stack that
# detect_stack_use_after_return aligns to 32 (GCC bug 110027).
include(CheckCCompilerFlag)
check_c_compiler_flag(-march=native OM_HAS_MARCH_NATIVE)
if(OPTIMUM_NATIVE AND OM_HAS_MARCH_NATIVE AND NOT OPTIMUM_SANITIZE)
    target_compile_options(om_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-march=native>)
endif()
if(OPTIMUM_SANITIZE)
    target_compile_options(om_options INTERFACE
        -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
    target_link_options(om_options INTERFACE -fsanitize=address,undefined)
endif()
# libFuzzer counts edges in our code; the program with main() adds -fsanitize=fuzzer itself (tests/CMakeLists.txt).
if(OPTIMUM_FUZZ)
    target_compile_options(om_options INTERFACE
        -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
    target_link_options(om_options INTERFACE -fsanitize=address,undefined)
endif()
