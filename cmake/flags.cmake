# How our own code is compiled: the warning set of CONTRIBUTING.md, sanitizers by preset.
add_library(om_options INTERFACE)
target_include_directories(om_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_compile_definitions(om_options INTERFACE _POSIX_C_SOURCE=200809L $<$<PLATFORM_ID:Darwin>:_DARWIN_C_SOURCE>)
set(om_warnings
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
    -Wvla -Wwrite-strings -Wundef -Wformat=2 -Wdouble-promotion -Wswitch-enum)
target_compile_options(om_options INTERFACE
    $<$<COMPILE_LANGUAGE:C>:${om_warnings};-fno-common>
    $<$<BOOL:${OPTIMUM_WERROR}>:-Werror>)
if(OPTIMUM_SANITIZE)
    target_compile_options(om_options INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
    target_link_options(om_options INTERFACE -fsanitize=address,undefined)
endif()
if(OPTIMUM_FUZZ)
    target_compile_options(om_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined)
    target_link_options(om_options INTERFACE -fsanitize=address,undefined)
endif()
