#include "optimum.h"

int main(void) {
    return 0;
}
