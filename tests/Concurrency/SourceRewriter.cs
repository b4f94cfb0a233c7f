using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Native.Scheduling;
using static Microsoft.CodeAnalysis.CSharp.SyntaxFactory;

namespace Native.Tests.Concurrency;

/// <summary>Makes every access to a shared variable one of the model's: <c>x</c> becomes <c>x.Get()</c>, <c>x = y</c>
/// becomes <c>x.Set(y)</c>, and Volatile and Interlocked are told their place.</summary>
internal sealed class SourceRewriter(CSharpCompilation compilation, HashSet<ISymbol> variables, string[] faulty)
    : CSharpSyntaxRewriter
{
    private static readonly Dictionary<string, FaultKind[]> Kinds = new()
    {
        ["Volatile"] = [FaultKind.Unordered],
        ["Interlocked"] = [FaultKind.Unordered, FaultKind.Torn],
        ["Barrier"] = [FaultKind.Unordered],
    };

    private readonly List<Site> _sites = [];
    private SemanticModel _model = null!;
    private string _file = "";

    public IReadOnlyList<Site> Sites => _sites;

    public string Rewrite(SyntaxTree tree)
    {
        _model = compilation.GetSemanticModel(tree);
        _file = Path.GetFileName(tree.FilePath);
        return Visit(tree.GetRoot()).ToFullString();
    }

    public override SyntaxNode? VisitFieldDeclaration(FieldDeclarationSyntax node)
    {
        if (!node.Declaration.Variables.Any(v => variables.Contains(_model.GetDeclaredSymbol(v)!)))
            return base.VisitFieldDeclaration(node);
        TypeSyntax type = node.Declaration.Type;
        bool elements = type is ArrayTypeSyntax
            && !IsReference(_model.GetDeclaredSymbol(node.Declaration.Variables[0])!);
        TypeSyntax shared = elements ? ArrayOf(((ArrayTypeSyntax)type).ElementType) : SharedOf(type);
        return node.WithDeclaration(VariableDeclaration(shared.WithTriviaFrom(type), SeparatedList(
            node.Declaration.Variables.Select(v => v.Initializer is not { } first ? v
                : v.WithInitializer(EqualsValueClause(elements ? Elements(first.Value)
                    : ParseExpression($" new {SharedOf(type)}({first.Value})")))))));
    }

    public override SyntaxNode? VisitLocalDeclarationStatement(LocalDeclarationStatementSyntax node)
    {
        var changed = (LocalDeclarationStatementSyntax)base.VisitLocalDeclarationStatement(node)!;
        if (node.Declaration.Type is RefTypeSyntax type
            && node.Declaration.Variables is [{ Initializer.Value: RefExpressionSyntax { Expression: var source } }]
            && IsVariable(source))
            changed = changed.WithDeclaration(changed.Declaration.WithType(type.WithType(
                SharedOf(type.Type).WithTriviaFrom(type.Type))));
        return changed;
    }

    public override SyntaxNode? VisitInvocationExpression(InvocationExpressionSyntax node)
    {
        ArgumentSyntax? first = node.ArgumentList.Arguments.FirstOrDefault();
        if (SharedVariables.IsAtomic(node) && (first is null || IsVariable(first.Expression)))
        {
            var called = (MemberAccessExpressionSyntax)node.Expression;
            string kinds = first is null ? "Barrier" : called.Expression.ToString();
            var changed = (InvocationExpressionSyntax)base.VisitInvocationExpression(node)!;
            return changed.AddArgumentListArguments(Argument(Place(node, node, Kinds[kinds])));
        }
        if (node.Expression.ToString() == "Array.Resize" && IsVariable(first!.Expression))
        {
            string size = Visit(node.ArgumentList.Arguments[1]).ToString();
            return ParseExpression($"{first.Expression}.Set(Native.Tests.Concurrency.ModelArray.Resized("
                + $"{first.Expression}.Get(), {size}))").WithTriviaFrom(node);
        }
        return node.Expression.ToString() == "Array.Fill"
            && SharedVariables.FieldOf(first!.Expression, _model) is { } filled && variables.Contains(filled)
            ? ParseExpression($"Native.Tests.Concurrency.ModelArray.Fill{node.ArgumentList}").WithTriviaFrom(node)
            : base.VisitInvocationExpression(node);
    }

    public override SyntaxNode? VisitIfStatement(IfStatementSyntax node)
    {
        var changed = (IfStatementSyntax)base.VisitIfStatement(node)!;
        if (!faulty.Contains(_file) || _file == "Scenarios.cs" || !Crosses(node.Condition)
            || (_file == "ObjectiveBudget.cs" && MemberOf(node) != "ReadSum") // the writer's alone
            || node.Condition.DescendantNodesAndSelf().Any(n => n is VariableDesignationSyntax)) return changed;
        return changed.WithCondition(ParseExpression("Native.Tests.Concurrency.ModelCondition.Is("
            + $"{changed.Condition}, {Place(node, node.Condition, [FaultKind.Always, FaultKind.Never])})"));
    }

    public override SyntaxNode? VisitAssignmentExpression(AssignmentExpressionSyntax node)
    {
        if (!IsVariable(node.Left))
        {
            var changed = (AssignmentExpressionSyntax)base.VisitAssignmentExpression(node)!;
            // An array of shared elements is made in a constructor.
            return node.Right is ArrayCreationExpressionSyntax
                && SharedVariables.FieldOf(node.Left, _model) is { } field && variables.Contains(field)
                ? changed.WithRight(Elements(node.Right)) : changed;
        }
        string left = Bare(node.Left), right = Visit(node.Right).ToString();
        string value = node.IsKind(SyntaxKind.SimpleAssignmentExpression) ? right
            : $"{left}.Get() {node.OperatorToken.Text.TrimEnd('=')} ({right})";
        return ParseExpression($"{left}.Set({value})").WithTriviaFrom(node);
    }

    public override SyntaxNode? VisitPostfixUnaryExpression(PostfixUnaryExpressionSyntax node) =>
        node.OperatorToken.Text == "++" && IsVariable(node.Operand)
            ? ParseExpression($"{Bare(node.Operand)}.Set({Bare(node.Operand)}.Get() + 1)").WithTriviaFrom(node)
            : base.VisitPostfixUnaryExpression(node);

    /// <summary>Other files use it too, so it stays, and the modelled ones have one of their own.</summary>
    public override SyntaxNode? VisitStructDeclaration(StructDeclarationSyntax node) =>
        node.Identifier.Text == nameof(PaddedLong) ? node : base.VisitStructDeclaration(node);

    public override SyntaxNode? VisitIdentifierName(IdentifierNameSyntax node) =>
        node.Identifier.Text == nameof(PaddedLong)
            ? ParseTypeName("global::Native.Tests.Concurrency.SharedLong").WithTriviaFrom(node)
            : (node.Parent is MemberAccessExpressionSyntax member && member.Name == node) || !IsVariable(node)
            ? base.VisitIdentifierName(node) : Got(node);

    public override SyntaxNode? VisitMemberAccessExpression(MemberAccessExpressionSyntax node) =>
        IsVariable(node) ? Got(node) : base.VisitMemberAccessExpression(node);

    public override SyntaxNode? VisitElementAccessExpression(ElementAccessExpressionSyntax node) =>
        IsVariable(node) ? Got(node) : base.VisitElementAccessExpression(node);

    /// <summary>The variable itself where a ref to it is taken, its value elsewhere.</summary>
    private SyntaxNode Got(ExpressionSyntax node)
    {
        bool byRef = node.Parent is RefExpressionSyntax
            || node.Parent is ArgumentSyntax { RefKindKeyword.RawKind: (int)SyntaxKind.RefKeyword };
        return ParseExpression(byRef ? Bare(node) : $"{Bare(node)}.Get()").WithTriviaFrom(node);
    }

    /// <summary>The expression with what is inside it rewritten, and itself not.</summary>
    private string Bare(ExpressionSyntax node) => node switch
    {
        MemberAccessExpressionSyntax member => $"{Visit(member.Expression)}.{member.Name}",
        ElementAccessExpressionSyntax element =>
            (IsVariable(element.Expression) ? Visit(element.Expression) : element.Expression).ToString()
                + Visit(element.ArgumentList),
        _ => node.ToString().Trim(),
    };

    private bool IsVariable(ExpressionSyntax node)
    {
        if (node is not (IdentifierNameSyntax or MemberAccessExpressionSyntax or ElementAccessExpressionSyntax)
            || SharedVariables.FieldOf(node, _model) is not IFieldSymbol field
            || !variables.Contains(field)) return false;
        // Of an array of shared elements each element is a variable, of a shared reference the field.
        bool elements = field.Type is IArrayTypeSymbol && !IsReference(field);
        bool local = _model.GetSymbolInfo(node).Symbol is ILocalSymbol;
        return local || (elements ? node is ElementAccessExpressionSyntax : node is not ElementAccessExpressionSyntax);
    }

    private static bool IsReference(ISymbol field) => field.ContainingType.Name == "TokenLog";

    private bool Crosses(ExpressionSyntax condition) => condition.DescendantNodesAndSelf().OfType<ExpressionSyntax>()
        .Any(n => IsVariable(n) || (n is InvocationExpressionSyntax call && SharedVariables.IsAtomic(call))
            || n.ToString() is "HasEvent()" or "TakeWaiter()" or "IsDraining" or "_inbox.IsEmpty"
            || n is IdentifierNameSyntax { Identifier.Text: "ahead" or "seen" or "count" });

    private LiteralExpressionSyntax Place(SyntaxNode at, SyntaxNode shown, FaultKind[] kinds)
    {
        int number = _sites.Count;
        string text = string.Join(
            ' ', shown.ToString().Split((char[])[' ', '\n'], StringSplitOptions.RemoveEmptyEntries));
        int line = at.GetLocation().GetLineSpan().StartLinePosition.Line + 1;
        int same = _sites.Count(s => s.File == _file && s.Member == MemberOf(at) && s.Source == text);
        string told = same > 0 ? $"{text} ({same + 1})" : text;
        _sites.Add(
            new Site(number, _file, line, MemberOf(at), text, told, faulty.Contains(_file) ? kinds : []));
        return LiteralExpression(SyntaxKind.NumericLiteralExpression, Literal(number));
    }

    private static string MemberOf(SyntaxNode node) =>
        node.Ancestors().OfType<MemberDeclarationSyntax>().First() switch
        {
            MethodDeclarationSyntax method => method.Identifier.Text,
            PropertyDeclarationSyntax property => property.Identifier.Text,
            _ => "",
        };

    private ExpressionSyntax Elements(ExpressionSyntax made)
    {
        var array = (ArrayCreationExpressionSyntax)made;
        return ParseExpression($" new {SharedOf(array.Type.ElementType)}"
            + $"{Visit(array.Type.RankSpecifiers[0])}");
    }

    private static TypeSyntax ArrayOf(TypeSyntax element) => ParseTypeName($"{SharedOf(element)}[]");

    private static TypeSyntax SharedOf(TypeSyntax type) =>
        ParseTypeName($"global::Native.Tests.Concurrency.Shared<{type.ToString().Trim()}>");
}
