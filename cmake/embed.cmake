# A file of the repository as a C array in a library: templates and the built-in text.
#
#   om_embed(TARGET SYMBOL FILE)    adds `const unsigned char SYMBOL[]` and `const size_t SYMBOL_size` to TARGET
#
# The array ends in a NUL that SYMBOL_size does not count. A file that does not exist gives an empty array, so that a
# tree without it still builds. The same file is also the script that writes the C source (no xxd, no Python needed):
#
#   cmake -DSYMBOL=… -DINPUT=… -DOUTPUT=… -P embed.cmake
if(CMAKE_SCRIPT_MODE_FILE)
    set(hex "")
    if(EXISTS "${INPUT}")
        file(READ "${INPUT}" hex HEX)
    endif()
    string(LENGTH "${hex}" digits)
    math(EXPR size "${digits} / 2")
    string(REPEAT "[0-9a-f]" 40 line)
    string(REGEX REPLACE "(${line})" "\\1\n" hex "${hex}")
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
    # Written to a temporary name: an interrupted build never leaves half an array behind.
    file(WRITE "${OUTPUT}.tmp"
        "#include <stddef.h>\n"
        "extern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_size;\n"
        "const size_t ${SYMBOL}_size = ${size};\nconst unsigned char ${SYMBOL}[] = {\n${hex}0x00\n};\n")
    file(RENAME "${OUTPUT}.tmp" "${OUTPUT}")
    return()
endif()

set(OM_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})
function(om_embed target symbol file)
    set(input ${PROJECT_SOURCE_DIR}/${file})
    set(output ${PROJECT_BINARY_DIR}/embed/${symbol}.c)
    file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/embed)
    set(dependency "")
    if(EXISTS ${input})
        set(dependency ${input})
    endif()
    add_custom_command(OUTPUT ${output}
        COMMAND ${CMAKE_COMMAND} -DSYMBOL=${symbol} -DINPUT=${input} -DOUTPUT=${output} -P ${OM_EMBED_SCRIPT}
        DEPENDS ${dependency} ${OM_EMBED_SCRIPT}
        COMMENT "Embedding ${file}" VERBATIM)
    target_sources(${target} PRIVATE ${output})
endfunction()

om_embed(om_report om_report_template src/report/template.html)
om_embed(om_run om_demo_text data/demo.txt)
om_embed(om_eval om_eval_mlx_program src/eval/mlx_speed.py)
om_embed(om_hf om_hf_banks_module src/hf/optimum_banks.py)
