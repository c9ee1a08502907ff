#include "stdio.h"

void say(const char *name);

int main(int argc, char **argv)
{
	say(argc > 1 ? argv[1] : "nobody");
	return 0;
}
