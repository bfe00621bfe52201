#!/bin/sh
cat /hello.txt /built-by.txt
