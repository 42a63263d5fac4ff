# Finds every library and gives it one name, dep::NAME. `make deps` fills OPTIMUM_DEPS with what the system lacks
# (llama.cpp and HiGHS); everything else comes from system packages.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

set(OPTIMUM_DEPS "$ENV{OPTIMUM_DEPS}" CACHE PATH "where `make deps` put llama.cpp and HiGHS")
list(PREPEND CMAKE_PREFIX_PATH ${OPTIMUM_DEPS}/llama ${OPTIMUM_DEPS}/highs)

find_package(llama REQUIRED)
# Not through HiGHS's own CMake config: the one in the PyPI package names folders of the machine that built it.
find_path(HIGHS_INCLUDE_DIR interfaces/highs_c_api.h PATH_SUFFIXES highs REQUIRED)
find_library(HIGHS_LIBRARY highs REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.10)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)

function(dep name)
    add_library(dep_${name} INTERFACE)
    target_link_libraries(dep_${name} INTERFACE ${ARGN})
    add_library(dep::${name} ALIAS dep_${name})
endfunction()
dep(ggml ggml::ggml)
dep(llama llama)
dep(highs ${HIGHS_LIBRARY})
target_include_directories(dep_highs SYSTEM INTERFACE ${HIGHS_INCLUDE_DIR})
dep(jansson PkgConfig::JANSSON)
dep(crypto PkgConfig::CRYPTO)
