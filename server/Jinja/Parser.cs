using System.Globalization;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>Tokens to statements, by recursive descent with Jinja2's grammar and precedences.</summary>
internal sealed class Parser
{
    /// <summary>Nested brackets and blocks. Real templates stay below 30; the bound keeps the descent off the stack's
    /// end.</summary>
    private const int MaxNesting = 200;

    private static readonly string[][] BinaryLevels = [["+", "-"], ["~"], ["*", "/", "//", "%"], ["**"]];

    private readonly SourceText _source;
    private readonly List<Token> _tokens;
    private int _next;
    private int _nesting;
    private Extras _extras; // what the macro being read has named so far
    private int _loops; // open loops that break and continue could mean

    private Parser(SourceText source)
    {
        _source = source;
        _tokens = new Lexer(source).Run();
    }

    public static Statement Parse(string template)
    {
        return new Parser(new SourceText(template)).ParseBody(opener: null);
    }

    // ---- tokens ----

    private Token Current => _tokens[_next];

    private int Line => _source.Line(Current.Position);

    private TemplateException Unexpected(string expected) =>
        _source.Error(Current.Position, $"expected {expected}, found {Current.Describe()}");

    private bool IsOperator(string symbol) => Current.Is(TokenKind.Operator, symbol);

    private bool IsName(string name) => Current.Is(TokenKind.Name, name);

    private bool SkipOperator(string symbol) => Skip(TokenKind.Operator, symbol);

    private bool SkipName(string name) => Skip(TokenKind.Name, name);

    private bool Skip(TokenKind kind, string text)
    {
        if (!Current.Is(kind, text)) return false;
        _next++;
        return true;
    }

    private void ExpectOperator(string symbol)
    {
        if (!SkipOperator(symbol)) throw Unexpected($"'{symbol}'");
    }

    private void ExpectName(string name)
    {
        if (!SkipName(name)) throw Unexpected($"'{name}'");
    }

    private void Expect(TokenKind kind, string what)
    {
        if (Current.Kind != kind) throw Unexpected(what);
        _next++;
    }

    private string Identifier(string what)
    {
        if (Current.Kind != TokenKind.Name) throw Unexpected(what);
        return _tokens[_next++].Text;
    }

    private void Nest()
    {
        if (++_nesting > MaxNesting) throw _source.Error(Current.Position, $"nested deeper than {MaxNesting} levels");
    }

    // ---- statements ----

    /// <summary>Statements up to a tag that begins with one of the given words, which is left as the current token; or
    /// to the end.</summary>
    private Block ParseBody(string? opener, params ReadOnlySpan<string> closers)
    {
        Nest();
        int opened = Current.Position;
        var statements = new List<Statement>();
        while (true)
        {
            Token token = Current;
            switch (token.Kind)
            {
                case TokenKind.End:
                    if (opener is not null)
                        throw _source.Error(opened,
                            $"'{opener}' is not closed: expected '{closers[^1]}', found end of template");
                    _nesting--;
                    return new Block([.. statements]);
                case TokenKind.Text:
                    statements.Add(new Text(token.Text));
                    _next++;
                    break;
                case TokenKind.VariableBegin:
                    int line = Line;
                    _next++;
                    statements.Add(new Print(ParseTuple(), line));
                    Expect(TokenKind.VariableEnd, "'}}'");
                    break;
                default:
                    _next++;
                    if (Current.Kind == TokenKind.Name && closers.Contains(Current.Text))
                    {
                        _nesting--;
                        return new Block([.. statements]);
                    }
                    statements.Add(ParseStatement(opener, closers));
                    break;
            }
        }
    }

    private Statement ParseStatement(string? opener, ReadOnlySpan<string> closers)
    {
        int line = Line;
        Token tag = Current;
        string keyword = Identifier("a statement");
        switch (keyword)
        {
            case "if": return ParseIf(line);
            case "for": return ParseFor(line);
            case "set": return ParseSet(line);
            case "macro": return ParseMacro();
            case "call": return ParseCallBlock(line);
            case "filter": return ParseFilterBlock(line);
            case "with": return ParseWith();
            case "generation": return ParseGeneration();
            case "print": return ParsePrint(line);
            case "break" or "continue":
                if (_loops == 0) throw _source.Error(tag.Position, $"'{keyword}' outside of a loop");
                EndTag();
                return new Jump(keyword == "break" ? Flow.Break : Flow.Continue);
            case "include" or "import" or "from" or "extends" or "block":
                throw _source.Error(tag.Position, $"'{keyword}' is not supported: a chat template stands alone");
            default:
                string expected =
                    closers.Length == 0 ? "" : $", expected '{string.Join("' or '", closers.ToArray())}' of '{opener}'";
                throw _source.Error(tag.Position, $"unknown statement '{keyword}'{expected}");
        }
    }

    private void EndTag() => Expect(TokenKind.BlockEnd, "'%}'");

    /// <summary>The body of a block up to its end tag, which is taken too.</summary>
    private Block ParseClosedBody(string opener, bool inLoop = false)
    {
        EndTag();
        int loops = _loops;
        _loops = inLoop ? loops : 0;
        Block body = ParseBody(opener, "end" + opener);
        _loops = loops;
        _next++;
        EndTag();
        return body;
    }

    private If ParseIf(int line)
    {
        var branches = new List<(Expression, Statement, int)>();
        Statement? otherwise = null;
        while (true)
        {
            Expression condition = ParseTuple(conditional: false);
            EndTag();
            branches.Add((condition, ParseBody("if", "elif", "else", "endif"), line));
            line = Line;
            if (SkipName("elif")) continue;
            if (SkipName("else"))
            {
                EndTag();
                otherwise = ParseBody("if", "endif");
            }
            ExpectName("endif");
            EndTag();
            return new If([.. branches], otherwise);
        }
    }

    private For ParseFor(int line)
    {
        Target target = ParseTarget("in");
        ExpectName("in");
        Expression items = ParseTuple(conditional: false);
        Expression? condition = SkipName("if") ? ParseExpression() : null;
        bool recursive = SkipName("recursive");
        EndTag();
        _loops++;
        Statement body = ParseBody("for", "else", "endfor");
        _loops--;
        Statement? otherwise = null;
        if (SkipName("else"))
        {
            EndTag();
            // Runs when the loop had no iteration: break and continue mean the loop around it.
            otherwise = ParseElse();
        }
        ExpectName("endfor");
        EndTag();
        return new For(target, items, condition, body, otherwise, recursive, line);
    }

    private Block ParseElse()
    {
        int loops = _loops;
        _loops = 0;
        Block body = ParseBody("for", "endfor");
        _loops = loops;
        return body;
    }

    private Set ParseSet(int line)
    {
        Target target = ParseTarget(null);
        if (SkipOperator("="))
        {
            Expression value = ParseTuple();
            EndTag();
            return new Set(target, value, line);
        }
        var captured = new Captured();
        Expression filtered = ParseFilters(captured);
        captured.Body = ParseClosedBody("set");
        return new Set(target, filtered, line);
    }

    private MacroDefinition ParseMacro()
    {
        string name = Identifier("the name of a macro");
        return new MacroDefinition(name, ParseMacroBody(ParseParameters(), "macro"));
    }

    private MacroBody ParseMacroBody(Parameter[] parameters, string opener)
    {
        Extras outer = _extras;
        _extras = Extras.None;
        Block body = ParseClosedBody(opener);
        foreach (Parameter parameter in parameters) _extras &= ~Named(parameter.Name);
        var macro = new MacroBody(parameters, body, _extras);
        _extras |= outer; // a macro inside another names these for both
        return macro;
    }

    private static Extras Named(string name) => name switch
    {
        "varargs" => Extras.Varargs,
        "kwargs" => Extras.Kwargs,
        "caller" => Extras.Caller,
        _ => Extras.None,
    };

    private Parameter[] ParseParameters()
    {
        var parameters = new List<Parameter>();
        ExpectOperator("(");
        while (!IsOperator(")"))
        {
            if (parameters.Count > 0) ExpectOperator(",");
            if (IsOperator(")")) break;
            string name = Identifier("a parameter");
            Expression? otherwise = SkipOperator("=") ? ParseExpression() : null;
            if (otherwise is null && parameters.Count > 0 && parameters[^1].Default is not null)
                throw _source.Error(Current.Position,
                    $"parameter '{name}' needs a default, because the one before has one");
            parameters.Add(new Parameter(name, otherwise));
        }
        ExpectOperator(")");
        return [.. parameters];
    }

    private CallBlock ParseCallBlock(int line)
    {
        Parameter[] parameters = IsOperator("(") ? ParseParameters() : [];
        Token at = Current;
        if (ParseExpression() is not Call call) throw _source.Error(at.Position, "expected the call of a macro");
        return new CallBlock(ParseMacroBody(parameters, "call"), call, line);
    }

    private FilterBlock ParseFilterBlock(int line)
    {
        var captured = new Captured();
        Expression filtered = ParseFilters(ParseFilter(captured));
        captured.Body = ParseClosedBody("filter");
        return new FilterBlock(filtered, line);
    }

    private With ParseWith()
    {
        var assignments = new List<(Target, Expression)>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (assignments.Count > 0) ExpectOperator(",");
            Target target = new NameTarget(Identifier("a name"));
            ExpectOperator("=");
            assignments.Add((target, ParseExpression()));
        }
        return new With([.. assignments], ParseClosedBody("with", inLoop: true));
    }

    private With ParseGeneration() => new([], ParseClosedBody("generation", inLoop: true));

    private Block ParsePrint(int line)
    {
        var prints = new List<Statement>();
        do prints.Add(new Print(ParseExpression(), line));
        while (SkipOperator(","));
        EndTag();
        return new Block([.. prints]);
    }

    /// <summary>One or more targets separated by commas, up to '=' or the given word.</summary>
    private Target ParseTarget(string? end)
    {
        var targets = new List<Target>();
        bool isTuple = false;
        do
        {
            if (targets.Count > 0 && (IsOperator("=") || IsOperator(")") || (end is not null && IsName(end)))) break;
            targets.Add(ParseOneTarget());
            isTuple |= IsOperator(",");
        }
        while (SkipOperator(","));
        return isTuple ? new TupleTarget([.. targets]) : targets[0];
    }

    private Target ParseOneTarget()
    {
        if (SkipOperator("("))
        {
            Nest();
            Target inner = ParseTarget(null);
            _nesting--;
            ExpectOperator(")");
            return inner;
        }
        Token token = Current;
        string name = Identifier("a name to assign to");
        if (name is "true" or "false" or "none" or "True" or "False" or "None")
            throw _source.Error(token.Position, $"can't assign to '{name}'");
        return SkipOperator(".") ? new NamespaceTarget(name, Identifier("an attribute")) : new NameTarget(name);
    }

    // ---- expressions ----

    /// <summary>An expression, or several with commas between: a tuple.</summary>
    private Expression ParseTuple(bool conditional = true)
    {
        var items = new List<Expression>();
        bool isTuple = false;
        do
        {
            if (items.Count > 0 && (Current.Kind is TokenKind.VariableEnd or TokenKind.BlockEnd || IsOperator(")")))
                break;
            items.Add(conditional ? ParseExpression() : ParseOr());
            isTuple |= IsOperator(",");
        }
        while (SkipOperator(","));
        return isTuple ? new TupleLiteral([.. items]) : items[0];
    }

    private Expression ParseExpression()
    {
        Nest();
        Expression value = ParseOr();
        while (SkipName("if"))
        {
            Expression condition = ParseOr();
            value = new Conditional(condition, value, SkipName("else") ? ParseExpression() : null);
        }
        _nesting--;
        return value;
    }

    private Expression ParseOr()
    {
        Expression left = ParseAnd();
        while (SkipName("or")) left = new Or(left, ParseAnd());
        return left;
    }

    private Expression ParseAnd()
    {
        Expression left = ParseNot();
        while (SkipName("and")) left = new And(left, ParseNot());
        return left;
    }

    private Expression ParseNot()
    {
        if (!SkipName("not")) return ParseComparison();
        Nest();
        Expression operand = ParseNot();
        _nesting--;
        return new Not(operand);
    }

    private Expression ParseComparison()
    {
        Expression first = ParseBinary(0);
        var rest = new List<(string, Expression)>();
        while (true)
        {
            string? symbol = null;
            if (Current is { Kind: TokenKind.Operator, Text: "==" or "!=" or "<" or "<=" or ">" or ">=" })
                symbol = Current.Text;
            else if (IsName("in")) symbol = "in";
            else if (IsName("not") && _tokens[_next + 1].Is(TokenKind.Name, "in")) symbol = "not in";
            if (symbol is null) return rest.Count == 0 ? first : new Comparison(first, [.. rest]);
            _next += symbol == "not in" ? 2 : 1;
            rest.Add((symbol, ParseBinary(0)));
        }
    }

    private Expression ParseBinary(int level)
    {
        if (level == BinaryLevels.Length) return ParseUnary(filters: true);
        Expression left = ParseBinary(level + 1);
        while (Current.Kind == TokenKind.Operator && BinaryLevels[level].Contains(Current.Text))
        {
            string symbol = _tokens[_next++].Text;
            Expression right = ParseBinary(level + 1);
            left = symbol == "~" ? new Concatenation(left, right) : new Arithmetic(symbol, left, right);
        }
        return left;
    }

    private Expression ParseUnary(bool filters)
    {
        Expression value;
        if (IsOperator("-") || IsOperator("+"))
        {
            bool negative = _tokens[_next++].Text == "-";
            Nest();
            value = new Sign(negative, ParseUnary(filters: false));
            _nesting--;
        }
        else
        {
            value = ParsePrimary();
        }
        value = ParsePostfix(value);
        return filters ? ParseFilters(value) : value;
    }

    private Expression ParsePrimary()
    {
        Token token = Current;
        switch (token.Kind)
        {
            case TokenKind.Name:
                _next++;
                _extras |= Named(token.Text);
                return token.Text switch
                {
                    "true" or "True" => new Literal(true),
                    "false" or "False" => new Literal(false),
                    "none" or "None" => new Literal(null),
                    _ => new Name(token.Text),
                };
            case TokenKind.String:
                var text = new StringBuilder(); // neighbours join, as in Python
                while (Current.Kind == TokenKind.String) text.Append(_tokens[_next++].Text);
                return new Literal(text.ToString());
            case TokenKind.Integer:
                _next++;
                if (!long.TryParse(token.Text, CultureInfo.InvariantCulture, out long integer))
                    throw _source.Error(token.Position, $"integer {token.Describe()} is too large");
                return new Literal(integer);
            case TokenKind.Float:
                _next++;
                return new Literal(double.Parse(token.Text, CultureInfo.InvariantCulture));
        }
        if (SkipOperator("("))
        {
            if (SkipOperator(")")) return new TupleLiteral([]);
            Expression inner = ParseTuple();
            ExpectOperator(")");
            return inner;
        }
        if (SkipOperator("[")) return new ListLiteral(ParseItems("]", ParseExpression));
        if (SkipOperator("{")) return new DictLiteral(ParseItems("}", ParsePair));
        throw Unexpected("an expression");
    }

    private T[] ParseItems<T>(string close, Func<T> parse)
    {
        var items = new List<T>();
        while (!IsOperator(close))
        {
            if (items.Count > 0) ExpectOperator(",");
            if (IsOperator(close)) break;
            items.Add(parse());
        }
        _next++;
        return [.. items];
    }

    private (Expression, Expression) ParsePair()
    {
        Expression key = ParseExpression();
        ExpectOperator(":");
        return (key, ParseExpression());
    }

    private Expression ParsePostfix(Expression value)
    {
        while (true)
        {
            if (SkipOperator("."))
            {
                value = Current.Kind == TokenKind.Integer
                    && long.TryParse(Current.Text, CultureInfo.InvariantCulture, out long index)
                    ? new Item(value, new Literal(index))
                    : new Attribute(value,
                        Current.Kind == TokenKind.Name ? Current.Text : throw Unexpected("a name or number after '.'"));
                _next++;
            }
            else if (SkipOperator("["))
            {
                value = ParseSubscript(value);
            }
            else if (IsOperator("("))
            {
                value = new Call(value, ParseArguments());
            }
            else
            {
                return value;
            }
        }
    }

    private Expression ParseSubscript(Expression value)
    {
        Expression? start = IsOperator(":") ? null : ParseTuple();
        if (start is not null && SkipOperator("]")) return new Item(value, start);
        ExpectOperator(":");
        Expression? stop = IsOperator(":") || IsOperator("]") ? null : ParseExpression();
        Expression? step = SkipOperator(":") && !IsOperator("]") ? ParseExpression() : null;
        ExpectOperator("]");
        return new Slice(value, start, stop, step);
    }

    private ArgumentList ParseArguments()
    {
        ExpectOperator("(");
        var positional = new List<Expression>();
        var keywords = new List<(string, Expression)>();
        Expression? spread = null, keywordSpread = null;
        for (bool first = true; !IsOperator(")"); first = false)
        {
            if (!first) ExpectOperator(",");
            if (IsOperator(")")) break;
            Token at = Current;
            if (SkipOperator("**"))
                keywordSpread = keywordSpread is null ? ParseExpression()
                    : throw _source.Error(at.Position, "a second ** in one call");
            else if (SkipOperator("*"))
                spread = spread is null ? ParseExpression()
                    : throw _source.Error(at.Position, "a second * in one call");
            else if (Current.Kind == TokenKind.Name && _tokens[_next + 1].Is(TokenKind.Operator, "="))
            {
                _next += 2;
                keywords.Add((at.Text, ParseExpression()));
            }
            else if (keywords.Count == 0 && spread is null && keywordSpread is null) positional.Add(ParseExpression());
            else throw _source.Error(at.Position, "a positional argument after a named one");
        }
        _next++;
        return new ArgumentList([.. positional], [.. keywords], spread, keywordSpread);
    }

    private Expression ParseFilters(Expression value)
    {
        while (true)
        {
            if (SkipOperator("|")) value = ParseFilter(value);
            else if (SkipName("is")) value = ParseTest(value);
            else if (IsOperator("(")) value = new Call(value, ParseArguments());
            else return value;
        }
    }

    private Filter ParseFilter(Expression operand)
    {
        string name = Identifier("the name of a filter");
        return new Filter(operand, name, IsOperator("(") ? ParseArguments() : ArgumentList.None);
    }

    private Test ParseTest(Expression operand)
    {
        bool negated = SkipName("not");
        string name = Identifier("the name of a test");
        var arguments = ArgumentList.None;
        if (IsOperator("(")) arguments = ParseArguments();
        else if (Current is { Kind: TokenKind.Name, Text: "is" or "not" or "in" or "if" or "recursive" })
            // Jinja2 fails too
            throw _source.Error(Current.Position,
                $"'{Current.Text}' would be the operand of the test '{name}': put the test in parentheses");
        else if (StartsTestOperand()) arguments = new ArgumentList([ParsePostfix(ParsePrimary())], [], null, null);
        return new Test(operand, name, arguments, negated);
    }

    /// <summary>Whether what follows a test's name is its operand, as in <c>x is divisibleby 3</c>.</summary>
    private bool StartsTestOperand() => Current.Kind switch
    {
        TokenKind.String or TokenKind.Integer or TokenKind.Float => true,
        TokenKind.Operator => Current.Text is "[" or "{",
        TokenKind.Name => Current.Text is not ("and" or "or" or "else"),
        _ => false,
    };
}
