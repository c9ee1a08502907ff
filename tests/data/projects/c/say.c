#include <stdio.h>

void say(const char *name)
{
	printf("hello, %s\n", name);
}
