from transformer2.cli import main

if __name__ == "__main__":  # engines start processes that import this module again
    main()
